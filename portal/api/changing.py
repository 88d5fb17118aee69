"""A later end, an earlier one, another window, over the API."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.changing import change_end, change_window
from leasing.more_time import NAMES, more_time
from portal.api.fields import MomentField, StrictSerializer
from portal.api.leases import shown
from portal.api.serializers import LeaseDetailSerializer
from portal.api.views import ActionView, api_actor, checked, person_of


class EndAtSerializer(StrictSerializer[dict[str, Any]]):
    ends_at = MomentField()


class ChangeSerializer(StrictSerializer[dict[str, Any]]):
    starts_at = MomentField()
    ends_at = MomentField()


class OfferSerializer(serializers.Serializer[Any]):
    """A later end that can be asked for as it is; `outside` says which limit it would be refused for."""

    name = serializers.ChoiceField(choices=list(NAMES))
    ends_at = serializers.DateTimeField(default_timezone=UTC)
    total = serializers.DecimalField(
        max_digits=14, decimal_places=2, source="quote.total", help_text="What it adds to the price"
    )
    currency = serializers.CharField(source="quote.currency")
    outside = serializers.CharField(help_text="Empty if it is inside all limits")


class MoreTimeSerializer(serializers.Serializer[Any]):
    until = serializers.DateTimeField(
        default_timezone=UTC, source="limit.until", help_text="The latest end that is possible now"
    )
    taken = serializers.BooleanField(
        source="limit.taken", help_text="Whether somebody else has the GPUs from then on"
    )
    closed = serializers.BooleanField(
        source="limit.closed", help_text="Whether they are closed for maintenance from then on"
    )
    home = serializers.BooleanField(
        source="limit.home", help_text="Whether another workstation has its home volume from then on"
    )
    devices = serializers.BooleanField(
        source="limit.devices", help_text="Whether another workstation has a device of it from then on"
    )
    pending_until = serializers.DateTimeField(
        default_timezone=UTC, allow_null=True, help_text="A later end that its host is to confirm"
    )
    why_not_longer = serializers.CharField(help_text="The limit that comes before somebody else does")
    offers = OfferSerializer(many=True)


class EndAtView(ActionView):
    @extend_schema(request=EndAtSerializer, responses=LeaseDetailSerializer)
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Another end, later or earlier. On a host a later one counts when the host has confirmed it."""
        policy.fetch_lease(person_of(request), lease_id, "use")
        ends_at = checked(EndAtSerializer, request.data)["ends_at"]
        lease = change_end(actor=api_actor(request), lease_id=lease_id, ends_at=ends_at, now=timezone.now())
        return shown(lease)

    @extend_schema(responses=MoreTimeSerializer)
    def get(self, request: Request, lease_id: UUID) -> Response:
        """How it could be kept longer, each way with its price, and what stands in the way of more."""
        lease = policy.fetch_lease(person_of(request), lease_id, "use")
        return Response(MoreTimeSerializer(more_time(lease, now=timezone.now())).data)


class ChangeView(ActionView):
    @extend_schema(request=ChangeSerializer, responses=LeaseDetailSerializer)
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Another window for a lease that has not begun, at the price in force."""
        policy.fetch_lease(person_of(request), lease_id, "use")
        asked = checked(ChangeSerializer, request.data)
        lease = change_window(actor=api_actor(request), lease_id=lease_id, now=timezone.now(), **asked)
        return shown(lease)
