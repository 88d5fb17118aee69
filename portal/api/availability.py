"""The calendar of a GPU pool over the API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from leasing.availability import pool
from leasing.availability.sweep import Stretch
from leasing.errors import InvalidRequest
from leasing.models import Lease
from leasing.openings.spans import Span, moment
from portal.api.fields import MomentField
from portal.api.schema import STRETCH_KINDS
from portal.api.views import ActionView, checked, person_of

DEFAULT_WINDOW = timedelta(days=7)


class AvailabilityQuerySerializer(serializers.Serializer[dict[str, Any]]):
    model = serializers.SlugField(help_text="Slug of the GPU model")
    flavor = serializers.SlugField(required=False, default="", help_text="Say also when this could be leased")
    since = MomentField(required=False, default=None, help_text="Whole minutes; now if left out")
    until = MomentField(required=False, default=None, help_text="A week later if left out")
    step_seconds = serializers.IntegerField(
        required=False, default=6 * 3600, min_value=60, max_value=31 * 86400
    )
    limit = serializers.IntegerField(
        required=False, default=5, min_value=1, max_value=pool.MOST_HOSTS, help_text="Hosts"
    )
    offset = serializers.IntegerField(required=False, default=0, min_value=0, max_value=1_000_000)

    def validate_step_seconds(self, value: int) -> int:
        if value % 60:
            raise serializers.ValidationError(_("A step is a whole number of minutes."))
        return value


class WindowSerializer(serializers.Serializer[Any]):
    starts_at = serializers.DateTimeField(default_timezone=UTC)
    ends_at = serializers.DateTimeField(default_timezone=UTC)


class PoolStepSerializer(WindowSerializer):
    free_least = serializers.IntegerField(help_text="The fewest GPUs that are free at any minute of the step")
    free_most = serializers.IntegerField()
    unavailable = serializers.IntegerField(help_text="At most so many are closed or out of service at once")
    together = serializers.IntegerField(
        allow_null=True, help_text="So many of one host are free throughout; null of what is over"
    )
    leasable = serializers.BooleanField(
        allow_null=True, help_text="Whether the flavor could be leased throughout"
    )


class StretchSerializer(WindowSerializer):
    kind = serializers.ChoiceField(choices=STRETCH_KINDS)
    lease = serializers.UUIDField(allow_null=True, help_text="One that you may see; null for all others")


class HostTimeSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    name = serializers.CharField(allow_blank=True, help_text="For those who read the fleet")
    gpus = serializers.ListField(
        child=StretchSerializer(many=True), help_text="Per GPU what takes it; the rest is free"
    )
    leasable = WindowSerializer(many=True, help_text="Windows in which the flavor could be leased on it")


class NamedLeaseSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    machine_name = serializers.CharField()
    flavor = serializers.SlugField()
    tenant = serializers.SlugField()
    state = serializers.CharField()
    page = serializers.CharField()


class AvailabilitySerializer(serializers.Serializer[Any]):
    """Hosts come a few at a time, those that hold leases of yours first; `host_count` says how many."""

    model = serializers.SlugField()
    flavor = serializers.SlugField(allow_null=True)
    starts_at = serializers.DateTimeField(default_timezone=UTC)
    ends_at = serializers.DateTimeField(default_timezone=UTC)
    gpus = serializers.IntegerField(help_text="Of the model, in service or not")
    steps = PoolStepSerializer(many=True)
    host_count = serializers.IntegerField()
    hosts = HostTimeSerializer(many=True)
    leases = NamedLeaseSerializer(many=True)


class AvailabilityView(ActionView):
    @extend_schema(parameters=[AvailabilityQuerySerializer], responses=AvailabilitySerializer)
    def get(self, request: Request) -> Response:
        """What is free and busy of a GPU model: in steps, and GPU by GPU of some hosts.

        Leases that you may see are named; everybody else's are anonymous and have no seams.
        """
        now = timezone.now()
        asked = checked(AvailabilityQuerySerializer, request.query_params.dict())
        found = pool.fetch_pool(person_of(request), asked["model"], asked["flavor"])
        edges = list(_edges(asked, now))
        overview = pool.read_overview(found, edges, now=now)
        page = pool.read_hosts(
            person_of(request),
            found,
            edges[0],
            edges[-1],
            offset=asked["offset"],
            limit=asked["limit"],
            now=now,
        )
        answer = {
            "model": found.model.slug,
            "flavor": found.flavor and found.flavor.slug,
            "starts_at": edges[0],
            "ends_at": edges[-1],
            "gpus": overview.gpus,
            "steps": overview.steps,
            "host_count": page.count,
            "hosts": [_host(row) for row in page.rows],
            "leases": [_lease(lease) for lease in page.leases.values()],
        }
        return Response(AvailabilitySerializer(answer).data)


def _edges(asked: dict[str, Any], now: datetime) -> Iterator[datetime]:
    """Whole minutes, `step_seconds` apart; the last step may be shorter."""
    since = (asked["since"] or now).replace(second=0, microsecond=0)
    until = (asked["until"] or since + DEFAULT_WINDOW).replace(second=0, microsecond=0)
    if until <= since:
        raise InvalidRequest(_("The window ends before it begins."), field="until")
    step = timedelta(seconds=asked["step_seconds"])
    pool.check_window(since, until, step)
    while since < until:
        yield since
        since += step
    yield until


def _host(row: pool.HostRow) -> dict[str, Any]:
    return {
        "number": row.number,
        "name": row.name,
        "gpus": [[_stretch(stretch) for stretch in gpu.stretches] for gpu in row.gpus],
        "leasable": [_window(span) for span in row.leasable],
    }


def _stretch(stretch: Stretch) -> dict[str, Any]:
    return {**_window(stretch), "kind": stretch.kind.value, "lease": stretch.lease_id}


def _window(span: Span | Stretch) -> dict[str, Any]:
    return {"starts_at": moment(span.starts), "ends_at": moment(span.ends)}


def _lease(lease: Lease) -> dict[str, Any]:
    return {
        "id": lease.pk,
        "machine_name": lease.machine_name,
        "flavor": lease.flavor.slug,
        "tenant": lease.tenant.slug,
        "state": lease.state,
        "page": reverse("workstation", args=[lease.pk]),
    }
