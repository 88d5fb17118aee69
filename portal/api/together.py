"""One lease, several people, over the API: shares, hand-overs, and notes for the next approver."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.models import HandOver, LeaseNote, Share
from leasing.together import deciding, handing_over, notes
from leasing.together.sharing import share_lease, withdraw_share
from portal.api.fields import StrictSerializer
from portal.api.leases import NothingSerializer, shown
from portal.api.serializers import LeaseDetailSerializer, moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of
from portal.pages.together import together_on


class ShareSerializer(serializers.ModelSerializer[Share]):
    person = serializers.CharField(source="person.username", read_only=True)
    shared_at = moment()

    class Meta:
        model = Share
        fields = ["id", "person", "level", "shared_at"]
        read_only_fields = fields


class NewShareSerializer(StrictSerializer[dict[str, Any]]):
    person = serializers.CharField(max_length=150, help_text="User name of a member of the tenant")
    level = serializers.ChoiceField(choices=Share.Level.choices)


class HandOverSerializer(serializers.ModelSerializer[HandOver]):
    giver = serializers.CharField(source="giver.username", read_only=True)
    taker = serializers.CharField(source="taker.username", read_only=True)
    offered_at, decided_at = moment(), moment(allow_null=True)
    because = serializers.CharField(
        read_only=True, help_text="What is outside the limits of who takes it, so that an approver decides"
    )
    decided_by = serializers.CharField(
        source="decided_by.username", read_only=True, default=None, allow_null=True, help_text="The approver"
    )

    class Meta:
        model = HandOver
        fields = [
            "id", "lease", "giver", "taker", "note", "offered_at", "state", "because", "decided_at",
            "decided_by", "decision_note",
        ]  # fmt: skip
        read_only_fields = fields


class HandOverFilterSerializer(serializers.Serializer[dict[str, Any]]):
    state = serializers.ChoiceField(
        choices=HandOver.State.choices, required=False, help_text="`asked`: waits for an approver"
    )


class DecideHandOverSerializer(StrictSerializer[dict[str, Any]]):
    decision = serializers.ChoiceField(choices=["approve", "reject"])
    note = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=500, help_text="For both; needed to reject"
    )


class OfferSerializer(StrictSerializer[dict[str, Any]]):
    person = serializers.CharField(max_length=150, help_text="User name of a member of the tenant")
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=500)


class LeaseNoteSerializer(serializers.ModelSerializer[LeaseNote]):
    author = serializers.CharField(source="author.username", read_only=True)
    written_at = moment()

    class Meta:
        model = LeaseNote
        fields = ["author", "text", "written_at"]
        read_only_fields = fields


class NewNoteSerializer(StrictSerializer[dict[str, Any]]):
    text = serializers.CharField(max_length=500)


class SharesView(ActionView):
    @extend_schema(responses=ShareSerializer(many=True))
    def get(self, request: Request, lease_id: UUID) -> Response:
        """With whom a lease is shared: all for its owner, their own for the others."""
        person = person_of(request)
        lease = policy.fetch_lease(person, lease_id, "view")
        return Response(ShareSerializer(together_on(person, lease).shares, many=True).data)

    @extend_schema(request=NewShareSerializer, responses={201: ShareSerializer})
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Let a colleague see a lease that runs, or use it: power and console."""
        policy.fetch_lease(person_of(request), lease_id, "use")
        given = checked(NewShareSerializer, request.data)
        made = share_lease(
            actor=api_actor(request),
            lease_id=lease_id,
            username=given["person"],
            level=given["level"],
            now=timezone.now(),
        )
        return Response(ShareSerializer(made).data, status=status.HTTP_201_CREATED)


class ShareView(ActionView):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, share_id: int) -> Response:
        """Withdraw a share of yours, or leave what is shared with you; a console that is open closes."""
        withdraw_share(actor=api_actor(request), share_id=share_id, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class HandOverList(ListView[HandOver]):
    serializer_class = HandOverSerializer
    queryset = HandOver.objects.none()

    def get_queryset(self) -> QuerySet[HandOver]:
        chosen = checked(HandOverFilterSerializer, self.request.query_params.dict())
        return handing_over.hand_overs_seen_by(person_of(self.request)).filter(**chosen)

    @extend_schema(parameters=[HandOverFilterSerializer])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Leases that were offered to you or by you, or in the tenants that you approve for; newest first."""
        return super().get(request, *args, **kwargs)


class HandOverView(ActionView):
    @extend_schema(request=OfferSerializer, responses={201: HandOverSerializer})
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Offer a lease of yours to a colleague, for good; it is yours until they accept."""
        policy.fetch_lease(person_of(request), lease_id, "use")
        given = checked(OfferSerializer, request.data)
        made = handing_over.offer_lease(
            actor=api_actor(request),
            lease_id=lease_id,
            username=given["person"],
            note=given["note"],
            now=timezone.now(),
        )
        return Response(HandOverSerializer(made).data, status=status.HTTP_201_CREATED)


class AcceptView(ActionView):
    @extend_schema(request=NothingSerializer, responses=LeaseDetailSerializer)
    def post(self, request: Request, hand_over_id: UUID) -> Response:
        """Make it yours, if it is inside your limits; what it costs from now on is counted for you."""
        checked(NothingSerializer, request.data)
        actor = api_actor(request)
        return shown(handing_over.accept_lease(actor=actor, hand_over_id=hand_over_id, now=timezone.now()))


class DeclineView(ActionView):
    @extend_schema(request=NothingSerializer, responses=HandOverSerializer)
    def post(self, request: Request, hand_over_id: UUID) -> Response:
        """Leave it to whose it is."""
        checked(NothingSerializer, request.data)
        actor = api_actor(request)
        made = handing_over.decline_lease(actor=actor, hand_over_id=hand_over_id, now=timezone.now())
        return Response(HandOverSerializer(made).data)


class TakeBackView(ActionView):
    @extend_schema(request=NothingSerializer, responses=HandOverSerializer)
    def post(self, request: Request, hand_over_id: UUID) -> Response:
        """Take an offer of yours back."""
        checked(NothingSerializer, request.data)
        actor = api_actor(request)
        made = handing_over.take_back_offer(actor=actor, hand_over_id=hand_over_id, now=timezone.now())
        return Response(HandOverSerializer(made).data)


class DecisionView(ActionView):
    @extend_schema(request=DecideHandOverSerializer, responses=HandOverSerializer)
    def post(self, request: Request, hand_over_id: UUID) -> Response:
        """Agree that a lease becomes somebody's whose limits it is outside of, or not; it is not your own."""
        given = checked(DecideHandOverSerializer, request.data)
        made = deciding.decide_hand_over(
            actor=api_actor(request),
            hand_over_id=hand_over_id,
            approve=given["decision"] == "approve",
            note=given["note"],
            now=timezone.now(),
        )
        return Response(HandOverSerializer(made).data)


class NotesView(ActionView):
    @extend_schema(responses=LeaseNoteSerializer(many=True))
    def get(self, request: Request, lease_id: UUID) -> Response:
        """Notes for the next approver: all for approvers, their own for who asks."""
        person = person_of(request)
        lease = policy.fetch_lease(person, lease_id, "view")
        return Response(LeaseNoteSerializer(notes.notes_for(person, lease), many=True).data)

    @extend_schema(request=NewNoteSerializer, responses={201: LeaseNoteSerializer})
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Leave one, on a request of yours or one that you may decide on."""
        policy.fetch_lease(person_of(request), lease_id, "view")
        text = checked(NewNoteSerializer, request.data)["text"]
        note = notes.write_note(actor=api_actor(request), lease_id=lease_id, text=text, now=timezone.now())
        return Response(LeaseNoteSerializer(note).data, status=status.HTTP_201_CREATED)
