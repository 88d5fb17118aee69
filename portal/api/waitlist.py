"""Waiting in line over the API: join, see how it looks, claim or decline what is offered, leave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import metering, waitlist
from leasing.booking import limits_met
from leasing.models import Lease, WaitlistEntry
from leasing.snapshots_kept import snapshot_named
from leasing.waitlist import Outlook
from portal.api.fields import DevicesField, MomentField, StrictSerializer
from portal.api.leases import NothingSerializer
from portal.api.named import flavor_named, image_named, tenant_named
from portal.api.serializers import LeaseDetailSerializer, UsbDeviceSerializer, moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of


class JoinSerializer(StrictSerializer[dict[str, Any]]):
    tenant = serializers.SlugField(required=False, help_text="May be left out by members of one tenant")
    flavor = serializers.SlugField()
    image = serializers.SlugField()
    duration_seconds = serializers.IntegerField(min_value=60, max_value=366 * 86400)
    earliest = MomentField(required=False, allow_null=True, default=None, help_text="None means now")
    deadline = MomentField(help_text="The latest end")
    purpose = serializers.CharField(required=False, allow_blank=True, default="", max_length=500)
    with_home = serializers.BooleanField(required=False, default=False, help_text="With your home volume")
    snapshot = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Your snapshot that its disk begins as"
    )
    usb = DevicesField(required=False, default=list)


class DeadlineSerializer(StrictSerializer[dict[str, Any]]):
    deadline = MomentField(help_text="The latest end")


class HeldOfferSerializer(serializers.Serializer[Lease]):
    """What is held for you; claimed after its start it keeps its end."""

    starts_at, ends_at = moment(), moment()
    claim_until = moment(source="decide_by")
    rate_per_hour = serializers.DecimalField(max_digits=12, decimal_places=4)
    currency = serializers.CharField()
    total = serializers.DecimalField(max_digits=14, decimal_places=2, source="quoted_total")
    approval_because = serializers.SerializerMethodField(help_text="Why an approver must agree; or empty")

    def get_approval_because(self, offer: Lease) -> str:
        return str(limits_met(offer, metering.terms(offer), now=self.context["now"]).reason)


class OutlookSerializer(serializers.Serializer[Outlook]):
    """How it looks for an entry that waits."""

    position = serializers.IntegerField(help_text="In the line for the GPU model, from 1")
    counts_as_joined_at = moment(source="entry.rank_at", help_text="Nobody who joins later comes before you")
    free_from = serializers.DateTimeField(
        default_timezone=UTC, allow_null=True, help_text="By what is booked now"
    )
    kept = serializers.BooleanField(help_text="Whether the last time before the deadline is kept for you")
    bookings_in_the_way = serializers.IntegerField(source="in_the_way", help_text="Of what is kept")
    offer = HeldOfferSerializer(allow_null=True)


class WaitlistEntrySerializer(serializers.ModelSerializer[WaitlistEntry]):
    tenant = serializers.CharField(source="tenant.slug", read_only=True)
    flavor = serializers.CharField(source="flavor.slug", read_only=True)
    image = serializers.CharField(source="image.slug", read_only=True)
    duration_seconds = serializers.SerializerMethodField()
    earliest, deadline = moment(source="earliest_at"), moment(source="deadline_at")
    joined_at, closed_at = moment(), moment(allow_null=True)
    outcome_reason = serializers.CharField(read_only=True)
    usb = UsbDeviceSerializer(many=True, read_only=True, source="devices")
    outlook = serializers.SerializerMethodField()

    class Meta:
        model = WaitlistEntry
        fields = [
            "id", "tenant", "flavor", "image", "duration_seconds", "earliest", "deadline", "purpose",
            "with_home", "snapshot", "usb", "joined_at", "closed_at", "outcome", "outcome_reason", "outlook",
        ]  # fmt: skip
        read_only_fields = fields

    def get_duration_seconds(self, entry: WaitlistEntry) -> int:
        return int(entry.duration.total_seconds())

    @extend_schema_field(OutlookSerializer(allow_null=True))
    def get_outlook(self, entry: WaitlistEntry) -> Any:
        if entry.closed_at is not None:
            return None
        now = timezone.now()
        return OutlookSerializer(waitlist.outlook(entry, now=now), context={"now": now}).data


class WaitlistView(ListView[WaitlistEntry]):
    """Your entries, the latest first."""

    serializer_class = WaitlistEntrySerializer
    queryset = WaitlistEntry.objects.none()

    def get_queryset(self) -> QuerySet[WaitlistEntry]:
        return waitlist.entries_of(person_of(self.request))

    @extend_schema(request=JoinSerializer, responses={201: WaitlistEntrySerializer})
    def post(self, request: Request) -> Response:
        """Wait for what cannot be had in time. What comes free is held for the first whom it fits."""
        asked, person = checked(JoinSerializer, request.data), person_of(request)
        entry = waitlist.join_waitlist(
            actor=api_actor(request),
            tenant=tenant_named(person, asked.get("tenant")),
            flavor=flavor_named(asked["flavor"]),
            image=image_named(asked["image"]),
            duration=timedelta(seconds=asked["duration_seconds"]),
            earliest=asked["earliest"],
            deadline=asked["deadline"],
            purpose=asked["purpose"],
            with_home=asked["with_home"],
            snapshot=snapshot_named(person, asked["snapshot"]) if asked["snapshot"] else None,
            usb=asked["usb"],
            now=timezone.now(),
        )
        location = reverse("api-waitlist-entry", args=[entry.pk])
        return _shown(entry, status.HTTP_201_CREATED, headers={"Location": location})


class WaitlistEntryView(ActionView):
    @extend_schema(responses=WaitlistEntrySerializer)
    def get(self, request: Request, entry_id: UUID) -> Response:
        """One entry, and how it looks for it."""
        return _shown(waitlist.fetch_entry(api_actor(request), entry_id))

    @extend_schema(request=None, responses={200: WaitlistEntrySerializer})
    def delete(self, request: Request, entry_id: UUID) -> Response:
        """Leave the line. What is offered passes to the next."""
        return _shown(
            waitlist.leave_waitlist(actor=api_actor(request), entry_id=entry_id, now=timezone.now())
        )


class DeadlineView(ActionView):
    @extend_schema(request=DeadlineSerializer, responses=WaitlistEntrySerializer)
    def post(self, request: Request, entry_id: UUID) -> Response:
        """Another latest end; the place in line stays."""
        actor = api_actor(request)
        waitlist.fetch_entry(actor, entry_id)
        deadline: datetime = checked(DeadlineSerializer, request.data)["deadline"]
        return _shown(
            waitlist.change_deadline(actor=actor, entry_id=entry_id, deadline=deadline, now=timezone.now())
        )


class ClaimView(ActionView):
    @extend_schema(request=NothingSerializer, responses=LeaseDetailSerializer)
    def post(self, request: Request, entry_id: UUID) -> Response:
        """Take what is offered. It is scheduled at once, or waits for an approver."""
        actor = api_actor(request)
        waitlist.fetch_entry(actor, entry_id)
        checked(NothingSerializer, request.data)
        lease = waitlist.claim_offer(actor=actor, entry_id=entry_id, now=timezone.now())
        return Response(LeaseDetailSerializer(lease).data)


class DeclineView(ActionView):
    @extend_schema(request=NothingSerializer, responses=WaitlistEntrySerializer)
    def post(self, request: Request, entry_id: UUID) -> Response:
        """Let what is offered pass to the next, and wait on. The third time you leave the line."""
        actor = api_actor(request)
        waitlist.fetch_entry(actor, entry_id)
        checked(NothingSerializer, request.data)
        return _shown(waitlist.decline_offer(actor=actor, entry_id=entry_id, now=timezone.now()))


def _shown(
    entry: WaitlistEntry, code: int = status.HTTP_200_OK, headers: dict[str, str] | None = None
) -> Response:
    return Response(WaitlistEntrySerializer(entry).data, status=code, headers=headers)
