"""A tenant's people over the API: members and roles, invitations, leaving, closing."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing.errors import NotVisible
from leasing.membership import closing, invitations, leaving, members
from leasing.models import Invitation, Person, Tenant
from leasing.policy import ROLES
from portal.api.fields import StrictSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, api_actor, checked, person_of


class RolesField(serializers.ListField):
    child = serializers.ChoiceField(choices=list(ROLES))


class MemberSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(source="person.username")
    name = serializers.CharField(source="person")
    roles = serializers.ListField(child=serializers.CharField())
    through_group = serializers.ListField(
        child=serializers.CharField(), help_text="Those of the roles that come through a group"
    )


class NewMemberSerializer(StrictSerializer[dict[str, Any]]):
    username = serializers.CharField(max_length=150)
    roles = RolesField(min_length=1, max_length=len(ROLES))


class MemberRolesSerializer(StrictSerializer[dict[str, Any]]):
    roles = RolesField(min_length=1, max_length=len(ROLES))


class InvitationSerializer(serializers.ModelSerializer[Invitation]):
    invited_by = serializers.CharField(source="invited_by.username", read_only=True)
    roles = serializers.ListField(child=serializers.CharField(), read_only=True)
    invited_at, expires_at = moment(), moment()

    class Meta:
        model = Invitation
        fields = ["id", "email", "roles", "invited_by", "invited_at", "expires_at"]
        read_only_fields = fields


class NewInvitationSerializer(StrictSerializer[dict[str, Any]]):
    email = serializers.EmailField(max_length=254)
    roles = RolesField(min_length=1, max_length=len(ROLES))
    days = serializers.ChoiceField(choices=invitations.LIFETIMES, default=7)


class InvitedSerializer(serializers.Serializer[dict[str, Any]]):
    id = serializers.UUIDField()
    link = serializers.CharField(help_text="Shown this once; it also goes to the address by e-mail")


class TheirLeaseSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    owner = serializers.CharField(source="owner.username")
    flavor = serializers.CharField(source="flavor.slug")
    state = serializers.CharField()
    starts_at, ends_at = moment(), moment()


class LeavingSerializer(serializers.Serializer[Any]):
    seen = serializers.CharField(help_text="To be sent back with the confirmation")
    ahead = TheirLeaseSerializer(many=True, help_text="Cancelled unless handed over")
    running = TheirLeaseSerializer(many=True, help_text="End at their end unless handed over")
    waiting = serializers.IntegerField(help_text="Places in line")
    consoles, shares, offers = (
        serializers.IntegerField(),
        serializers.IntegerField(),
        serializers.IntegerField(),
    )
    ends_access = serializers.BooleanField(help_text="It is the last role: tokens and feeds end too")
    tokens, feeds = serializers.IntegerField(), serializers.IntegerField()


class LeaveSerializer(StrictSerializer[dict[str, Any]]):
    seen = serializers.CharField(max_length=64)
    heirs = serializers.DictField(
        child=serializers.CharField(max_length=150),
        required=False,
        default=dict,
        help_text="User names of who takes over which lease, by its id",
    )

    def validate_heirs(self, heirs: dict[str, str]) -> dict[UUID, str]:
        try:
            return {UUID(key): name for key, name in heirs.items()}
        except ValueError:
            raise serializers.ValidationError("not the id of a lease") from None


class ClosingSerializer(serializers.Serializer[Any]):
    seen = serializers.CharField(help_text="To be sent back with the confirmation")
    ahead = TheirLeaseSerializer(many=True, help_text="Cancelled")
    running = TheirLeaseSerializer(many=True, help_text="End at their end")
    waiting, invitations, members = (serializers.IntegerField() for _ in range(3))


class CloseTenantSerializer(StrictSerializer[dict[str, Any]]):
    seen = serializers.CharField(max_length=64)
    name = serializers.CharField(max_length=200, help_text="The tenant's name, typed")


class MembersView(ActionView):
    @extend_schema(responses=MemberSerializer(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """Everybody with a role in a tenant that you are an owner or approver of."""
        return _members(members.fetch_team(person_of(request), slug))

    @extend_schema(request=NewMemberSerializer, responses={201: MemberSerializer(many=True)})
    def post(self, request: Request, slug: str) -> Response:
        """Add somebody by their user name. Approvers add members, owners give every role."""
        tenant = members.fetch_team(person_of(request), slug)
        given = checked(NewMemberSerializer, request.data)
        members.add_member(actor=api_actor(request), slug=slug, now=timezone.now(), **given)
        return _members(tenant, status.HTTP_201_CREATED)


class MemberRolesView(ActionView):
    @extend_schema(request=MemberRolesSerializer, responses=MemberSerializer(many=True))
    def post(self, request: Request, slug: str, username: str) -> Response:
        """Give somebody exactly these roles."""
        tenant = members.fetch_team(person_of(request), slug)
        person = Person.objects.filter(username=username).first()
        if person is None or username not in members.roles_in(tenant):
            raise NotVisible("There is no such person in the team.")
        roles = checked(MemberRolesSerializer, request.data)["roles"]
        members.set_roles(actor=api_actor(request), slug=slug, person=person, roles=roles, now=timezone.now())
        return _members(tenant)


class LeaveView(ActionView):
    @extend_schema(responses=LeavingSerializer)
    def get(self, request: Request, slug: str, username: str) -> Response:
        """What it would mean that they, or you, leave the tenant."""
        found = leaving.preview_leaving(actor=api_actor(request), slug=slug, username=username)
        return Response(LeavingSerializer(found).data)

    @extend_schema(request=LeaveSerializer, responses=LeavingSerializer)
    def post(self, request: Request, slug: str, username: str) -> Response:
        """Leave, or remove somebody, and say who takes over what; all or nothing."""
        actor = api_actor(request)
        leaving.fetch_leaver(actor, slug, username)
        given = checked(LeaveSerializer, request.data)
        found = leaving.leave_team(actor=actor, slug=slug, username=username, now=timezone.now(), **given)
        return Response(LeavingSerializer(found).data)


class InvitationsView(ActionView):
    @extend_schema(responses=InvitationSerializer(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """Invitations that nobody has used."""
        tenant = members.fetch_team(person_of(request), slug)
        found = invitations.open_invitations(tenant, now=timezone.now())
        return Response(InvitationSerializer(found, many=True).data)

    @extend_schema(request=NewInvitationSerializer, responses={201: InvitedSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Invite somebody by e-mail. Approvers invite members, owners into every role."""
        members.fetch_team(person_of(request), slug)
        given = checked(NewInvitationSerializer, request.data)
        made, link = invitations.invite(actor=api_actor(request), slug=slug, now=timezone.now(), **given)
        answer = InvitedSerializer({"id": made.pk, "link": link}).data
        return Response(answer, status=status.HTTP_201_CREATED)


class InvitationView(ActionView):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, slug: str, invitation_id: UUID) -> Response:
        """Its link lets nobody in any more."""
        invitations.withdraw_invitation(
            actor=api_actor(request), slug=slug, invitation_id=invitation_id, now=timezone.now()
        )
        return Response(status=status.HTTP_204_NO_CONTENT)


class CloseView(ActionView):
    @extend_schema(responses=ClosingSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """What it would mean to close the tenant: for its owners, and operators."""
        found = closing.preview_closing(actor=api_actor(request), slug=slug, now=timezone.now())
        return Response(ClosingSerializer(found).data)

    @extend_schema(request=CloseTenantSerializer, responses={204: None})
    def post(self, request: Request, slug: str) -> Response:
        """Nothing new is booked for it from now on; what runs ends at its end."""
        actor = api_actor(request)
        closing.fetch_closable(actor, slug)
        given = checked(CloseTenantSerializer, request.data)
        closing.close_tenant(
            actor=actor, slug=slug, typed=given["name"], seen=given["seen"], now=timezone.now()
        )
        return Response(status=status.HTTP_204_NO_CONTENT)


def _members(tenant: Tenant, code: int = status.HTTP_200_OK) -> Response:
    return Response(MemberSerializer(members.members_of(tenant), many=True).data, status=code)
