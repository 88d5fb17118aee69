"""Closures over the API: what one would do, doing it as shown, changing and lifting it. For operators."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from hosts.models import Gpu, Host
from leasing import policy
from leasing.errors import InvalidRequest
from leasing.maintenance import service
from leasing.maintenance.plan import Fate, Unmovable
from leasing.models import Closure
from portal.api.fields import MomentField, StrictSerializer
from portal.api.leases import NothingSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of


class TimesSerializer(StrictSerializer[dict[str, Any]]):
    starts_at = MomentField(required=False, allow_null=True, default=None, help_text="Now if left out")
    ends_at = MomentField(
        required=False, allow_null=True, default=None, help_text="Until further notice if left out"
    )
    unmovable = serializers.ChoiceField(
        choices=[choice.value for choice in Unmovable],
        default=Unmovable.STAY.value,
        help_text="What becomes of leases that have not begun and can move nowhere",
    )


class ConfirmedSerializer(TimesSerializer):
    reason = serializers.CharField(max_length=service.LONGEST_REASON, help_text="Those affected read it")
    seen = serializers.CharField(
        allow_blank=True, max_length=200_000, help_text="“seen” of the plan that was shown"
    )


class WhatSerializer(StrictSerializer[dict[str, Any]]):
    host = serializers.UUIDField(required=False, help_text="The whole host")
    gpu = serializers.UUIDField(required=False, help_text="One GPU alone")


class DrainPreviewSerializer(WhatSerializer, TimesSerializer):
    """What, and when."""


class DrainSerializer(WhatSerializer, ConfirmedSerializer):
    """What, when, why, and what was shown of it."""


class PlaceSerializer(serializers.Serializer[Gpu]):
    gpu = serializers.UUIDField(source="pk")
    host = serializers.CharField(source="host.name")
    address = serializers.CharField()


class AffectedSerializer(serializers.Serializer[Any]):
    lease = serializers.UUIDField(source="lease.pk")
    owner = serializers.CharField(source="lease.owner.username")
    tenant = serializers.CharField(source="lease.tenant.slug")
    flavor = serializers.CharField(source="lease.flavor.slug")
    starts_at = serializers.DateTimeField(source="lease.starts_at", default_timezone=UTC)
    ends_at = serializers.DateTimeField(source="lease.ends_at", default_timezone=UTC)
    fate = serializers.ChoiceField(choices=[fate.value for fate in Fate])
    gpus = PlaceSerializer(many=True, help_text="Where it moves, or where it stays")


class ClosureSerializer(serializers.ModelSerializer[Closure]):
    host = serializers.CharField(source="host.name", read_only=True)
    gpu = serializers.UUIDField(source="gpu_id", read_only=True, allow_null=True)
    created_by = serializers.CharField(
        source="created_by.username", read_only=True, default=None, allow_null=True
    )
    starts_at, ends_at, created_at = moment(), moment(allow_null=True), moment()

    class Meta:
        model = Closure
        fields = ["id", "host", "gpu", "starts_at", "ends_at", "reason", "created_by", "created_at"]
        read_only_fields = fields


class PlanSerializer(serializers.Serializer[Any]):
    host = serializers.CharField(source="closure.host.name")
    gpu = serializers.UUIDField(source="closure.gpu_id", allow_null=True)
    starts_at = serializers.DateTimeField(source="closure.starts_at", default_timezone=UTC)
    ends_at = serializers.DateTimeField(source="closure.ends_at", default_timezone=UTC, allow_null=True)
    empties_at = serializers.DateTimeField(
        default_timezone=UTC,
        allow_null=True,
        help_text="When the last lease that stays is gone and its GPUs are clean; null if none stays",
    )
    affected = AffectedSerializer(many=True)
    seen = serializers.CharField(allow_blank=True, help_text="Send it with the confirmation")


class DoneSerializer(ClosureSerializer):
    affected = AffectedSerializer(many=True, read_only=True)

    class Meta(ClosureSerializer.Meta):
        fields = [*ClosureSerializer.Meta.fields, "affected"]
        read_only_fields = fields


class ClosureList(ListView[Closure]):
    """When hosts and GPUs are, were or will be closed, the latest first."""

    serializer_class = ClosureSerializer
    queryset = Closure.objects.none()

    def get_queryset(self) -> QuerySet[Closure]:
        policy.require_fleet_reader(person_of(self.request))
        return service.closures()

    @extend_schema(request=DrainSerializer, responses={201: DoneSerializer})
    def post(self, request: Request) -> Response:
        """Close a host or a GPU as a preview has shown it; 409 if that would affect others by now."""
        policy.require_operator(person_of(request))
        asked = checked(DrainSerializer, request.data)
        plan = service.drain(what=_what(asked), **_acting(request), **asked)
        return Response(_done(plan), status=status.HTTP_201_CREATED)


class DrainPreview(ActionView):
    @extend_schema(request=DrainPreviewSerializer, responses=PlanSerializer)
    def post(self, request: Request) -> Response:
        """Whom closing a host or a GPU would affect, and how. Changes nothing."""
        policy.require_operator(person_of(request))
        asked = checked(DrainPreviewSerializer, request.data)
        plan = service.preview_drain(what=_what(asked), **_acting(request), **asked)
        return Response(PlanSerializer(plan).data)


class ChangePreview(ActionView):
    @extend_schema(operation_id="closures_change_preview", request=TimesSerializer, responses=PlanSerializer)
    def post(self, request: Request, closure_id: int) -> Response:
        """Whom other times of a closure would affect, and how. Changes nothing."""
        policy.require_operator(person_of(request))
        asked = checked(TimesSerializer, request.data)
        plan = service.preview_change(closure_id=closure_id, **_acting(request), **asked)
        return Response(PlanSerializer(plan).data)


class ChangeView(ActionView):
    @extend_schema(request=ConfirmedSerializer, responses=DoneSerializer)
    def post(self, request: Request, closure_id: int) -> Response:
        """Other times or another reason for a closure, as a preview has shown them."""
        policy.require_operator(person_of(request))
        asked = checked(ConfirmedSerializer, request.data)
        return Response(_done(service.change_closure(closure_id=closure_id, **_acting(request), **asked)))


class LiftView(ActionView):
    @extend_schema(request=NothingSerializer, responses={204: None})
    def post(self, request: Request, closure_id: int) -> Response:
        """End a closure now; one that has not begun is gone."""
        policy.require_operator(person_of(request))
        checked(NothingSerializer, request.data)
        service.lift_closure(closure_id=closure_id, **_acting(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


def _acting(request: Request) -> dict[str, Any]:
    return {"actor": api_actor(request), "now": timezone.now()}


def _done(plan: Any) -> dict[str, Any]:
    plan.closure.affected = plan.affected
    return dict(DoneSerializer(plan.closure).data)


def _what(asked: dict[str, Any]) -> Host | Gpu:
    """Takes its name out of what was asked."""
    host_id, gpu_id = asked.pop("host", None), asked.pop("gpu", None)
    if (host_id is None) == (gpu_id is None):
        raise InvalidRequest(_("Say which host or which GPU, one of the two."), field="host")
    return _host(host_id) if gpu_id is None else _gpu(gpu_id)


def _host(host_id: UUID) -> Host:
    host = Host.objects.filter(pk=host_id, retired_at=None).first()
    if host is None:
        raise InvalidRequest(_("There is no such host."), hint=_("See /api/v1/hosts/."), field="host")
    return host


def _gpu(gpu_id: UUID) -> Gpu:
    gpu = Gpu.objects.select_related("host").filter(pk=gpu_id).first()
    if gpu is None:
        raise InvalidRequest(_("There is no such GPU."), hint=_("See /api/v1/gpus/."), field="gpu")
    return gpu
