"""What operators do with one host over the API: look at it, look again, rename it, let it go."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from hosts.models import Host, HostCheckUp
from hosts.protocol.broker import broker_user
from leasing import fleet, policy
from leasing.enrolment import accounts, changes
from leasing.errors import NotVisible
from portal.api.fields import StrictSerializer
from portal.api.leases import NothingSerializer
from portal.api.serializers import CheckUpSerializer, HostSerializer
from portal.api.views import ActionView, api_actor, checked, person_of
from portal.checkups import show


class NameSerializer(StrictSerializer[dict[str, Any]]):
    name = serializers.CharField(max_length=63)


class CheckUpView(ActionView):
    @extend_schema(responses=CheckUpSerializer)
    def get(self, request: Request, host_id: UUID) -> Response:
        """What the host's doctor last found, in words; the worst first."""
        policy.require_fleet_reader(person_of(request))
        found = HostCheckUp.objects.filter(host=host_id).select_related("host").first()
        if found is None:
            raise NotVisible(_("There is no check-up of this host."))
        return Response(CheckUpSerializer(show(found)).data)


class InspectView(ActionView):
    @extend_schema(request=NothingSerializer, responses={202: HostSerializer})
    def post(self, request: Request, host_id: UUID) -> Response:
        """Ask the host what it has and whether it is in order; it reports when it can."""
        policy.require_operator(person_of(request))
        checked(NothingSerializer, request.data)
        host = changes.look_again(actor=api_actor(request), host_id=host_id, now=timezone.now())
        return Response(_told(host), status=202)


class NameView(ActionView):
    @extend_schema(request=NameSerializer, responses=HostSerializer)
    def post(self, request: Request, host_id: UUID) -> Response:
        """Call the host something else; its account keeps the name it was enrolled under."""
        policy.require_operator(person_of(request))
        name = checked(NameSerializer, request.data)["name"]
        host = changes.rename_host(actor=api_actor(request), host_id=host_id, name=name, now=timezone.now())
        return Response(_told(host))


class BrokerAccountSerializer(serializers.Serializer[Any]):
    account = serializers.CharField()
    made_at = serializers.DateTimeField(
        allow_null=True, help_text="When the portal made it; else do so by hand"
    )
    lines = serializers.ListField(child=serializers.CharField(), help_text="What to type at the broker")


class AccountView(ActionView):
    @extend_schema(responses=BrokerAccountSerializer)
    def get(self, request: Request, host_id: UUID) -> Response:
        """The host's account at the broker, and the lines that make it by hand."""
        policy.require_operator(person_of(request))
        host = fleet.known_host(host_id)
        lines = accounts.account_lines(host)
        answer = {"account": broker_user(host.account), "made_at": host.account_at, "lines": lines}
        return Response(BrokerAccountSerializer(answer).data)

    @extend_schema(request=NothingSerializer, responses=HostSerializer)
    def post(self, request: Request, host_id: UUID) -> Response:
        """Make the host's account at the broker once more."""
        policy.require_operator(person_of(request))
        checked(NothingSerializer, request.data)
        host = accounts.remake_account(actor=api_actor(request), host_id=host_id, now=timezone.now())
        return Response(_told(host))


class RetireView(ActionView):
    @extend_schema(request=NothingSerializer, responses=HostSerializer)
    def post(self, request: Request, host_id: UUID) -> Response:
        """Let the host go for good. Refused while leases are on it or booked there."""
        policy.require_operator(person_of(request))
        checked(NothingSerializer, request.data)
        host = changes.retire_host(actor=api_actor(request), host_id=host_id, now=timezone.now())
        return Response(_told(host))


def _told(host: Host) -> Any:
    row = fleet.accepting_hosts(Host.objects.filter(pk=host.pk), now=timezone.now()).get()
    return HostSerializer(row).data
