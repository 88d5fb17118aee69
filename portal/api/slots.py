"""When, how long and at which price: answers over the API that change nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.booking import judge_booking, quote_lease
from leasing.devices import chosen_devices
from leasing.extras import PLAIN, Extras, extras_for
from leasing.limits import check_window
from leasing.models import Flavor, Person, Tenant
from leasing.slots import find_slots, free_until, near_misses
from leasing.snapshots_kept import snapshot_named
from portal.api.fields import DevicesField, MomentField, StrictSerializer
from portal.api.measures import MeasureSerializer
from portal.api.named import flavor_named, tenant_named
from portal.api.serializers import TermSerializer
from portal.api.views import ActionView, checked, person_of

TEN_YEARS = 10 * 366 * 86400


class WindowSerializer(StrictSerializer[dict[str, Any]]):
    """What and when: exactly one of `ends_at` and `duration_seconds`; no `starts_at` means now."""

    tenant = serializers.SlugField(required=False, help_text="May be left out by members of one tenant")
    flavor = serializers.SlugField()
    starts_at = MomentField(required=False, allow_null=True, default=None)
    ends_at = MomentField(required=False, allow_null=True, default=None)
    duration_seconds = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=TEN_YEARS
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if (attrs["ends_at"] is None) == (attrs["duration_seconds"] is None):
            raise serializers.ValidationError({"ends_at": _("Give either “ends_at” or “duration_seconds”.")})
        return attrs


class QuoteSerializer(serializers.Serializer[dict[str, Any]]):
    rate_per_hour = serializers.DecimalField(max_digits=12, decimal_places=4)
    currency = serializers.CharField()
    total = serializers.DecimalField(max_digits=14, decimal_places=2)
    terms = TermSerializer(many=True, help_text="What it is billed by; each is rounded by itself")
    starts_at = serializers.DateTimeField()
    ends_at = serializers.DateTimeField()
    approval_because = serializers.CharField(help_text="Why an approver must agree; empty if none has to")
    measures = MeasureSerializer(many=True, help_text="What it does to each limit, in each month")


class SlotQuerySerializer(serializers.Serializer[dict[str, Any]]):
    flavor = serializers.SlugField()
    tenant = serializers.SlugField(required=False, help_text="Whose prices; yours if you are in one tenant")
    duration_seconds = serializers.IntegerField(min_value=60, max_value=366 * 86400)
    earliest = MomentField(required=False, default=None)
    deadline = MomentField(required=False, default=None, help_text="The latest end")
    count = serializers.IntegerField(required=False, default=3, min_value=1, max_value=10)
    with_home = serializers.BooleanField(required=False, default=False, help_text="With your home volume")
    snapshot = serializers.UUIDField(required=False, default=None, help_text="From this snapshot of yours")
    usb = DevicesField(required=False, default=list)


class SlotSerializer(serializers.Serializer[Any]):
    starts_at = serializers.DateTimeField(default_timezone=UTC)
    ends_at = serializers.DateTimeField(default_timezone=UTC)
    total = serializers.DecimalField(max_digits=14, decimal_places=2, source="quote.total")
    currency = serializers.CharField(source="quote.currency")


class OtherSlotSerializer(serializers.Serializer[Any]):
    flavor = serializers.SlugField()
    slot = SlotSerializer()


class ObstacleSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField(source="*")


class SlotsSerializer(serializers.Serializer[Any]):
    """If there is no slot: what stands in the way, and what nearly fits, each with its price."""

    slots = SlotSerializer(many=True)
    longest_until = serializers.DateTimeField(
        default_timezone=UTC,
        allow_null=True,
        help_text="The latest end of one that begins at `earliest`; null if none can begin then",
    )
    own = serializers.ListField(
        child=serializers.UUIDField(), help_text="Workstations of yours that stand in the way"
    )
    obstacles = ObstacleSerializer(many=True)
    plain = SlotSerializer(allow_null=True, help_text="As asked, but without home volume, snapshot, devices")
    shorter = SlotSerializer(allow_null=True)
    later = SlotSerializer(many=True)
    others = OtherSlotSerializer(many=True)


class QuoteView(ActionView):
    @extend_schema(request=WindowSerializer, responses=QuoteSerializer)
    def post(self, request: Request) -> Response:
        """What a lease would cost and do to each limit, and why an approver must agree. Changes nothing."""
        now = timezone.now()
        asked = checked(WindowSerializer, request.data)
        tenant, flavor = tenant_named(person_of(request), asked.get("tenant")), flavor_named(asked["flavor"])
        starts_at, ends_at = asked["starts_at"] or now, end_of(asked, now)
        check_window(starts_at, ends_at, now=now)
        quote = quote_lease(flavor=flavor, tenant=tenant, starts_at=starts_at, ends_at=ends_at, now=now)
        verdict = judge_booking(
            tenant=tenant,
            person=person_of(request),
            flavor=flavor,
            starts_at=starts_at,
            ends_at=ends_at,
            quote=quote,
            now=now,
        )
        answer = {
            "rate_per_hour": quote.rate_per_hour,
            "currency": quote.currency,
            "total": quote.total,
            "terms": quote.terms,
            "starts_at": starts_at,
            "ends_at": ends_at,
            "approval_because": verdict.reason,
            "measures": verdict.measures,
        }
        return Response(QuoteSerializer(answer).data)


class SlotsView(ActionView):
    @extend_schema(parameters=[SlotQuerySerializer], responses=SlotsSerializer)
    def get(self, request: Request) -> Response:
        """When a flavor is free for so long: the first slot, then alternatives, or what nearly fits."""
        now = timezone.now()
        person, given = person_of(request), checked(SlotQuerySerializer, request.query_params)
        flavor, duration = flavor_named(given["flavor"]), timedelta(seconds=given["duration_seconds"])
        asked = {
            "earliest": given["earliest"],
            "deadline": given["deadline"],
            "tenant": _pays(person, given.get("tenant")),
            "extras": _extras(person, flavor, given),
            "now": now,
        }
        slots = find_slots(flavor, duration, count=given["count"], **asked)
        starts_at = max(given["earliest"] or now, now)
        longest = free_until(flavor, starts_at, deadline=given["deadline"], extras=asked["extras"], now=now)
        answer: dict[str, Any] = {"slots": slots, "longest_until": longest}
        answer |= {"obstacles": [], "own": [], "plain": None, "shorter": None, "later": [], "others": []}
        if not slots:
            nearly = near_misses(flavor, duration, person=person, **asked)
            answer |= {
                "obstacles": nearly.obstacles.reasons,
                "own": [lease.pk for lease in nearly.obstacles.own],
                "plain": nearly.plain,
                "shorter": nearly.shorter,
                "later": nearly.later,
                "others": [{"flavor": other.slug, "slot": slot} for other, slot in nearly.others],
            }
        return Response(SlotsSerializer(answer).data)


def _extras(person: Person, flavor: Flavor, given: dict[str, Any]) -> Extras:
    """Storage is of one team: whoever is in several must say which."""
    devices = chosen_devices(flavor, given["usb"])
    if not (given["with_home"] or given["snapshot"] or devices):
        return PLAIN
    return extras_for(
        tenant_named(person, given.get("tenant")),
        person,
        with_home=given["with_home"],
        snapshot=snapshot_named(person, given["snapshot"]) if given["snapshot"] else None,
        devices=devices,
    )


def _pays(person: Person, slug: str | None) -> Tenant | None:
    """The tenant whose prices are shown; those of nobody to who is in none, or in several."""
    if slug:
        return tenant_named(person, slug)
    found = list(policy.tenants_with_role(person, "member")[:2])
    return found[0] if len(found) == 1 else None


def end_of(asked: dict[str, Any], now: datetime) -> datetime:
    if asked["ends_at"] is not None:
        ends_at: datetime = asked["ends_at"]
        return ends_at
    start: datetime = asked["starts_at"] or now
    return start + timedelta(seconds=asked["duration_seconds"])
