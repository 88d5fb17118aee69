"""Leases over the API: ask, watch, decide, switch, end, look at the screen."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.booking import request_lease
from leasing.console import open_console
from leasing.ending import end_lease
from leasing.idleness import say_in_use
from leasing.models import Lease
from leasing.models.leases import LONGEST_TAG
from leasing.power import switch_power
from leasing.snapshots_kept import snapshot_named
from leasing.states.lease import LeaseState
from leasing.timing import TICKET_LIFETIME
from portal.api.fields import DevicesField, StrictSerializer
from portal.api.named import flavor_named, image_named, tenant_named
from portal.api.serializers import LeaseDetailSerializer, LeaseSerializer
from portal.api.slots import WindowSerializer, end_of
from portal.api.views import ActionView, ListView, api_actor, checked, credential_of_request, person_of


class BookingSerializer(WindowSerializer):
    image = serializers.SlugField()
    purpose = serializers.CharField(required=False, allow_blank=True, default="", max_length=500)
    project = serializers.CharField(required=False, allow_blank=True, default="", max_length=LONGEST_TAG)
    cost_centre = serializers.CharField(required=False, allow_blank=True, default="", max_length=LONGEST_TAG)
    usb = DevicesField(required=False, default=list)
    with_home = serializers.BooleanField(
        required=False, default=False, help_text="Attach your home volume; it is made if you have none"
    )
    snapshot = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Your snapshot that its disk begins as"
    )


class PowerSerializer(StrictSerializer[dict[str, Any]]):
    action = serializers.ChoiceField(choices=["on", "off", "restart"])


class EndSerializer(StrictSerializer[dict[str, Any]]):
    snapshot = serializers.BooleanField(
        required=False, default=False, help_text="Take a snapshot of its disk before that is destroyed"
    )


class NothingSerializer(StrictSerializer[dict[str, Any]]):
    """An empty object, or no body."""


class ConsoleSerializer(serializers.Serializer[dict[str, Any]]):
    """Connect to `path` with the subprotocols `binary` and `ticket.<ticket>`, once, in time."""

    session_id = serializers.UUIDField()
    ticket = serializers.CharField()
    path = serializers.CharField()
    expires_in_seconds = serializers.IntegerField()


class LeaseFilterSerializer(serializers.Serializer[dict[str, Any]]):
    state = serializers.ChoiceField(choices=[state.value for state in LeaseState], required=False)
    tenant = serializers.SlugField(required=False)


class LeaseList(ListView[Lease]):
    serializer_class = LeaseSerializer
    queryset = Lease.objects.none()

    def get_queryset(self) -> QuerySet[Lease]:
        chosen = checked(LeaseFilterSerializer, self.request.query_params.dict())
        leases = policy.visible_leases(person_of(self.request)).prefetch_related("segments", "extensions")
        if "state" in chosen:
            leases = leases.filter(state=chosen["state"])
        if "tenant" in chosen:
            leases = leases.filter(tenant__slug=chosen["tenant"])
        return leases.select_related("decided_by").order_by("-starts_at", "id")

    @extend_schema(parameters=[LeaseFilterSerializer])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The leases that you may see, latest start first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(request=BookingSerializer, responses={201: LeaseDetailSerializer})
    def post(self, request: Request) -> Response:
        """Ask for a workstation. It is scheduled at once, or waits for an approver."""
        now = timezone.now()
        asked = checked(BookingSerializer, request.data)
        lease = request_lease(
            actor=api_actor(request),
            tenant=tenant_named(person_of(request), asked.get("tenant")),
            flavor=flavor_named(asked["flavor"]),
            image=image_named(asked["image"]),
            starts_at=asked["starts_at"],
            ends_at=end_of(asked, now),
            purpose=asked["purpose"],
            project=asked["project"],
            cost_centre=asked["cost_centre"],
            usb=asked["usb"],
            with_home=asked["with_home"],
            snapshot=snapshot_named(person_of(request), asked["snapshot"]) if asked["snapshot"] else None,
            now=now,
        )
        location = reverse("api-lease", args=[lease.pk])
        return Response(
            LeaseDetailSerializer(lease).data, status=status.HTTP_201_CREATED, headers={"Location": location}
        )


class LeaseDetail(ActionView):
    @extend_schema(responses=LeaseDetailSerializer)
    def get(self, request: Request, lease_id: UUID) -> Response:
        """One lease, with the steps of its host."""
        return shown(policy.fetch_lease(person_of(request), lease_id, "view"))


class EndView(ActionView):
    @extend_schema(request=EndSerializer, responses=LeaseDetailSerializer)
    def post(self, request: Request, lease_id: UUID) -> Response:
        """End it now; what has not started is cancelled."""
        policy.fetch_lease(person_of(request), lease_id, "end")
        save = checked(EndSerializer, request.data)["snapshot"]
        return shown(end_lease(actor=api_actor(request), lease_id=lease_id, save=save, now=timezone.now()))


class InUseView(ActionView):
    @extend_schema(request=NothingSerializer, responses=LeaseDetailSerializer)
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Say that you are using it: it is not given back as unused."""
        policy.fetch_lease(person_of(request), lease_id, "use")
        checked(NothingSerializer, request.data)
        return shown(say_in_use(actor=api_actor(request), lease_id=lease_id, now=timezone.now()))


class PowerView(ActionView):
    @extend_schema(request=PowerSerializer, responses={202: LeaseDetailSerializer})
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Ask the host to switch the machine; `machine` follows when it has."""
        policy.fetch_lease(person_of(request), lease_id, "control")
        wanted = checked(PowerSerializer, request.data)["action"]
        lease = switch_power(actor=api_actor(request), lease_id=lease_id, action=wanted, now=timezone.now())
        return shown(lease, status.HTTP_202_ACCEPTED)


class ConsoleView(ActionView):
    @extend_schema(request=NothingSerializer, responses={201: ConsoleSerializer})
    def post(self, request: Request, lease_id: UUID) -> Response:
        """A one-time ticket for the machine's console, bound to this session or token."""
        policy.fetch_lease(person_of(request), lease_id, "control")
        checked(NothingSerializer, request.data)
        opened = open_console(
            actor=api_actor(request),
            lease_id=lease_id,
            session_key=credential_of_request(request),
            now=timezone.now(),
        )
        answer = {
            "session_id": opened.session_id,
            "ticket": opened.ticket,
            "path": f"/ws/console/{opened.session_id}/",
            "expires_in_seconds": int(TICKET_LIFETIME.total_seconds()),
        }
        return Response(ConsoleSerializer(answer).data, status=status.HTTP_201_CREATED)


def shown(lease: Lease, code: int = status.HTTP_200_OK) -> Response:
    return Response(LeaseDetailSerializer(lease).data, status=code)
