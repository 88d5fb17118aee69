"""Repeated bookings over the API: look first, then book whole or without the dates that are named."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.approval import approve_series, reject_series
from leasing.ending import end_series
from leasing.models import Series
from leasing.models.leases import LONGEST_TAG
from leasing.recurrence import MOST_OCCURRENCES, MOST_WEEKS_BETWEEN, Pattern
from leasing.series import book_series
from leasing.series_plan import Plan, preview_series
from leasing.snapshots_kept import snapshot_named
from portal.api.approvals import NoteSerializer, ReasonSerializer
from portal.api.fields import StrictSerializer
from portal.api.leases import NothingSerializer
from portal.api.measures import MeasureSerializer
from portal.api.named import flavor_named, image_named, tenant_named
from portal.api.serializers import LeaseSerializer, moment
from portal.api.slots import ObstacleSerializer, SlotSerializer
from portal.api.views import ActionView, ListView, api_actor, checked, person_of

CLOCK = "%H:%M"


class RepeatSerializer(StrictSerializer[dict[str, Any]]):
    """At local times of a zone on days of the week; an end at or before the start is on the next day."""

    tenant = serializers.SlugField(required=False, help_text="May be left out by members of one tenant")
    flavor = serializers.SlugField()
    weekdays = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=7),
        min_length=1,
        max_length=7,
        help_text="ISO 8601: 1 is Monday",
    )
    starts = serializers.TimeField(input_formats=[CLOCK], help_text="Local time, such as 09:00")
    ends = serializers.TimeField(input_formats=[CLOCK])
    zone = serializers.CharField(max_length=64, help_text="IANA name, such as Europe/Berlin")
    first_on = serializers.DateField()
    last_on = serializers.DateField(help_text="Both dates are included")
    every_weeks = serializers.IntegerField(default=1, min_value=1, max_value=MOST_WEEKS_BETWEEN)
    without = serializers.ListField(
        child=serializers.DateField(),
        max_length=MOST_OCCURRENCES,
        default=list,
        help_text="Dates to do without; of all others each is booked, or nothing is",
    )
    with_home = serializers.BooleanField(
        required=False, default=False, help_text="Attach your home volume to each of them"
    )
    snapshot = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Your snapshot that each disk begins as"
    )


class RepeatBookingSerializer(RepeatSerializer):
    image = serializers.SlugField()
    purpose = serializers.CharField(required=False, allow_blank=True, default="", max_length=500)
    project = serializers.CharField(required=False, allow_blank=True, default="", max_length=LONGEST_TAG)
    cost_centre = serializers.CharField(required=False, allow_blank=True, default="", max_length=LONGEST_TAG)


class OccurrenceSerializer(serializers.Serializer[Any]):
    """One date. If it cannot be had: why, and what would be free on that day."""

    day = serializers.DateField(source="occurrence.day")
    starts_at = serializers.DateTimeField(default_timezone=UTC, source="occurrence.starts_at")
    ends_at = serializers.DateTimeField(default_timezone=UTC, source="occurrence.ends_at")
    total = serializers.DecimalField(max_digits=14, decimal_places=2, source="quote.total")
    currency = serializers.CharField(source="quote.currency")
    left_out = serializers.BooleanField()
    booked = serializers.BooleanField(source="is_booked", help_text="Whether it would be booked now")
    obstacles = ObstacleSerializer(many=True)
    instead = SlotSerializer(many=True)


class TotalSerializer(serializers.Serializer[Any]):
    currency = serializers.CharField()
    total = serializers.DecimalField(max_digits=14, decimal_places=2)


class SeriesPlanSerializer(serializers.Serializer[Any]):
    occurrences = OccurrenceSerializer(many=True, source="planned")
    lost = serializers.ListField(
        child=serializers.DateField(), help_text="What cannot be had and is not named in “without”"
    )
    totals = TotalSerializer(many=True)
    approval_because = serializers.CharField(help_text="Why an approver must agree; empty if none has to")
    measures = MeasureSerializer(many=True, help_text="What all dates together do to each limit")


class SeriesSerializer(serializers.ModelSerializer[Series]):
    tenant = serializers.CharField(source="tenant.slug", read_only=True)
    owner = serializers.CharField(source="owner.username", read_only=True)
    flavor = serializers.CharField(source="flavor.slug", read_only=True)
    image = serializers.CharField(source="image.slug", read_only=True)
    weekdays = serializers.SerializerMethodField()
    starts = serializers.TimeField(format=CLOCK, read_only=True)
    ends = serializers.TimeField(format=CLOCK, read_only=True)
    left_out = serializers.ListField(child=serializers.DateField(), read_only=True)
    requested_at = moment()

    class Meta:
        model = Series
        fields = [
            "id", "tenant", "owner", "flavor", "image", "purpose", "weekdays", "starts", "ends", "zone",
            "first_on", "last_on", "every_weeks", "left_out", "requested_at",
        ]  # fmt: skip
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.IntegerField()))
    def get_weekdays(self, series: Series) -> list[int]:
        return sorted(series.pattern.weekdays)


class SeriesDetailSerializer(SeriesSerializer):
    leases = serializers.SerializerMethodField()

    class Meta(SeriesSerializer.Meta):
        fields = [*SeriesSerializer.Meta.fields, "leases"]
        read_only_fields = fields

    @extend_schema_field(LeaseSerializer(many=True))
    def get_leases(self, series: Series) -> list[dict[str, Any]]:
        leases = series.leases.select_related("tenant", "owner", "flavor", "image", "decided_by")
        found = leases.prefetch_related("segments", "extensions").order_by("occurs_on")
        return list(LeaseSerializer(found, many=True).data)


class SeriesList(ListView[Series]):
    """The repeated bookings that you may see, the latest first."""

    serializer_class = SeriesSerializer
    queryset = Series.objects.none()

    def get_queryset(self) -> QuerySet[Series]:
        return policy.visible_series(person_of(self.request)).order_by("-requested_at", "id")

    @extend_schema(request=RepeatBookingSerializer, responses={201: SeriesDetailSerializer})
    def post(self, request: Request) -> Response:
        """Book every date but those in `without`, or nothing: then the problem names what is lost."""
        asked = checked(RepeatBookingSerializer, request.data)
        series = book_series(
            actor=api_actor(request),
            tenant=tenant_named(person_of(request), asked.get("tenant")),
            flavor=flavor_named(asked["flavor"]),
            image=image_named(asked["image"]),
            pattern=_pattern(asked),
            without=asked["without"],
            **_storage(request, asked),
            purpose=asked["purpose"],
            project=asked["project"],
            cost_centre=asked["cost_centre"],
            now=timezone.now(),
        )
        location = reverse("api-series", args=[series.pk])
        return Response(
            SeriesDetailSerializer(series).data,
            status=status.HTTP_201_CREATED,
            headers={"Location": location},
        )


class SeriesPreview(ActionView):
    @extend_schema(request=RepeatSerializer, responses=SeriesPlanSerializer)
    def post(self, request: Request) -> Response:
        """Every date with its price, whether it can be had, and what else is free then. Changes nothing."""
        asked = checked(RepeatSerializer, request.data)
        plan = preview_series(
            actor=api_actor(request),
            tenant=tenant_named(person_of(request), asked.get("tenant")),
            flavor=flavor_named(asked["flavor"]),
            pattern=_pattern(asked),
            without=asked["without"],
            **_storage(request, asked),
            now=timezone.now(),
        )
        return Response(SeriesPlanSerializer(_plan(plan)).data)


class SeriesDetail(ActionView):
    @extend_schema(responses=SeriesDetailSerializer)
    def get(self, request: Request, series_id: UUID) -> Response:
        """One repeated booking with all its leases."""
        return _shown(request, series_id)


class SeriesCancel(ActionView):
    @extend_schema(request=NothingSerializer, responses=SeriesDetailSerializer)
    def post(self, request: Request, series_id: UUID) -> Response:
        """Cancel everything of it that has not begun. One date is cancelled by ending its lease."""
        policy.fetch_series(person_of(request), series_id, "end")
        checked(NothingSerializer, request.data)
        end_series(actor=api_actor(request), series_id=series_id, now=timezone.now())
        return _shown(request, series_id)


class SeriesApprove(ActionView):
    @extend_schema(request=NoteSerializer, responses=SeriesDetailSerializer)
    def post(self, request: Request, series_id: UUID) -> Response:
        """Agree to everything of somebody else's series that still waits."""
        policy.fetch_series(person_of(request), series_id, "decide")
        note = checked(NoteSerializer, request.data)["note"]
        approve_series(actor=api_actor(request), series_id=series_id, note=note, now=timezone.now())
        return _shown(request, series_id)


class SeriesReject(ActionView):
    @extend_schema(request=ReasonSerializer, responses=SeriesDetailSerializer)
    def post(self, request: Request, series_id: UUID) -> Response:
        """Decline everything of somebody else's series that still waits, and say why."""
        policy.fetch_series(person_of(request), series_id, "decide")
        note = checked(ReasonSerializer, request.data)["note"]
        reject_series(actor=api_actor(request), series_id=series_id, note=note, now=timezone.now())
        return _shown(request, series_id)


def _shown(request: Request, series_id: UUID) -> Response:
    series = policy.fetch_series(person_of(request), series_id, "view")
    return Response(SeriesDetailSerializer(series).data)


def _pattern(asked: dict[str, Any]) -> Pattern:
    return Pattern(
        weekdays=frozenset(asked["weekdays"]),
        starts=asked["starts"],
        ends=asked["ends"],
        zone=asked["zone"],
        first_on=asked["first_on"],
        last_on=asked["last_on"],
        every_weeks=asked["every_weeks"],
    )


def _storage(request: Request, asked: dict[str, Any]) -> dict[str, Any]:
    snapshot = asked["snapshot"]
    return {
        "with_home": asked["with_home"],
        "snapshot": snapshot_named(person_of(request), snapshot) if snapshot else None,
    }


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "planned": plan.planned,
        "lost": [one.occurrence.day for one in plan.lost],
        "totals": [{"currency": currency, "total": total} for currency, total in plan.totals.items()],
        "approval_because": str(plan.approval_because),
        "measures": plan.measures,
    }
