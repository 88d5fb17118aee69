"""Approvals over the API: what waits for a decision, what has to be known for it, and the decision."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.approval import approve_lease, reject_lease, revoke_approval, waiting_for_decision
from leasing.considerations import considerations
from leasing.errors import NotVisible
from leasing.models import Lease
from portal.api.fields import MomentField, StrictSerializer
from portal.api.leases import shown
from portal.api.measures import MeasureSerializer
from portal.api.serializers import LeaseDetailSerializer, LeaseSerializer
from portal.api.views import ActionView, ListView, api_actor, checked, person_of


class NoteSerializer(StrictSerializer[dict[str, Any]]):
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=500)


class ApproveSerializer(NoteSerializer):
    ends_at = MomentField(
        required=False, allow_null=True, default=None, help_text="An earlier end than was asked for"
    )


class ReasonSerializer(StrictSerializer[dict[str, Any]]):
    note = serializers.CharField(max_length=500)


class ConsiderationsSerializer(serializers.Serializer[Any]):
    measures = MeasureSerializer(many=True)
    another_free = serializers.BooleanField(
        help_text="Whether somebody else could still have one in all of this time"
    )
    inside_until = serializers.DateTimeField(
        default_timezone=UTC, allow_null=True, help_text="Until then it would be inside all limits"
    )


class RequestSerializer(LeaseSerializer):
    may_decide = serializers.SerializerMethodField(help_text="Nobody decides on their own")
    considerations = serializers.SerializerMethodField()

    class Meta(LeaseSerializer.Meta):
        fields = [*LeaseSerializer.Meta.fields, "may_decide", "considerations"]
        read_only_fields = fields

    def get_may_decide(self, lease: Lease) -> bool:
        return lease.owner_id != person_of(self.context["request"]).pk

    @extend_schema_field(ConsiderationsSerializer)
    def get_considerations(self, lease: Lease) -> dict[str, Any]:
        return dict(ConsiderationsSerializer(considerations(lease, now=timezone.now())).data)


class RequestList(ListView[Lease]):
    """The requests of the tenants that you decide for, oldest first, with what has to be known for it."""

    serializer_class = RequestSerializer
    queryset = Lease.objects.none()

    def get_queryset(self) -> QuerySet[Lease]:
        person = person_of(self.request)
        if not policy.tenants_with_role(person, "approver").exists():
            raise NotVisible(_("There is nothing here."))
        return waiting_for_decision(person).prefetch_related("segments", "extensions")


class ApproveView(ActionView):
    @extend_schema(request=ApproveSerializer, responses=LeaseDetailSerializer)
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Agree to somebody else's request, or to the first part of it."""
        policy.fetch_lease(person_of(request), lease_id, "decide")
        given = checked(ApproveSerializer, request.data)
        lease = approve_lease(actor=api_actor(request), lease_id=lease_id, now=timezone.now(), **given)
        return shown(lease)


class RejectView(ActionView):
    @extend_schema(request=ReasonSerializer, responses=LeaseDetailSerializer)
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Decline somebody else's request, and say why."""
        policy.fetch_lease(person_of(request), lease_id, "decide")
        note = checked(ReasonSerializer, request.data)["note"]
        lease = reject_lease(actor=api_actor(request), lease_id=lease_id, note=note, now=timezone.now())
        return shown(lease)


class RevokeView(ActionView):
    @extend_schema(request=ReasonSerializer, responses=LeaseDetailSerializer)
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Take an approval back while nothing has started, and say why."""
        policy.fetch_lease(person_of(request), lease_id, "decide")
        note = checked(ReasonSerializer, request.data)["note"]
        lease = revoke_approval(actor=api_actor(request), lease_id=lease_id, note=note, now=timezone.now())
        return shown(lease)
