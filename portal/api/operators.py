"""What operators keep over the API: flavors, tenants, and the emergency stop."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from hosts.models import GpuModel
from leasing import emergency, flavors, policy
from leasing.errors import InvalidRequest
from leasing.membership import closing, tenants
from leasing.models import EmergencyStop, Flavor, Tenant
from portal.api.fields import StrictSerializer
from portal.api.leases import NothingSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of

LARGEST = 100_000


class KeptFlavorSerializer(serializers.ModelSerializer[Flavor]):
    gpu_model = serializers.CharField(source="model.slug", read_only=True)
    usb_devices = serializers.ListField(child=serializers.CharField(), read_only=True)
    booked = serializers.IntegerField(read_only=True, help_text="Leases that hold GPUs for it")

    class Meta:
        model = Flavor
        fields = [
            "slug", "name", "description", "gpu_model", "gpu_count", "numa", "usb_devices", "offered",
            "booked",
        ]  # fmt: skip
        read_only_fields = fields


class ChangeFlavorSerializer(StrictSerializer[dict[str, Any]]):
    name = serializers.CharField(max_length=100, required=False)
    description = serializers.CharField(max_length=300, required=False, allow_blank=True)
    numa = serializers.ChoiceField(Flavor.Numa.choices, required=False)
    usb_devices = serializers.ListField(
        child=serializers.CharField(max_length=9), max_length=8, required=False
    )


class AddFlavorSerializer(ChangeFlavorSerializer):
    slug = serializers.SlugField(max_length=50)
    name = serializers.CharField(max_length=100)
    gpu_model = serializers.SlugField()
    gpu_count = serializers.IntegerField(min_value=1, max_value=16, default=1)


class KeptTenantSerializer(serializers.ModelSerializer[Tenant]):
    closed_at = moment(allow_null=True)

    class Meta:
        model = Tenant
        fields = ["slug", *tenants.KEPT, "closed_at"]
        read_only_fields = fields


class ChangeTenantSerializer(StrictSerializer[dict[str, Any]]):
    name = serializers.CharField(max_length=100, required=False)
    timezone = serializers.CharField(max_length=64, required=False)
    concurrent_gpus = serializers.IntegerField(min_value=0, max_value=LARGEST, required=False)
    longest_lease_hours = serializers.IntegerField(min_value=1, max_value=LARGEST, required=False)
    book_ahead_days = serializers.IntegerField(min_value=1, max_value=LARGEST, required=False)


class AddTenantSerializer(ChangeTenantSerializer):
    slug = serializers.SlugField(max_length=50)
    name = serializers.CharField(max_length=100)
    owner = serializers.CharField(max_length=150, help_text="User name of its first owner")


class OwnerSerializer(StrictSerializer[dict[str, Any]]):
    owner = serializers.CharField(max_length=150)


class EmergencyStopSerializer(serializers.ModelSerializer[EmergencyStop]):
    host = serializers.CharField(source="host.name", read_only=True, default=None, allow_null=True)
    tenant = serializers.CharField(source="tenant.slug", read_only=True, default=None, allow_null=True)
    made_by = serializers.CharField(source="made_by.username", read_only=True)
    made_at, lifted_at = moment(), moment(allow_null=True)

    class Meta:
        model = EmergencyStop
        fields = [
            "id", "scope", "host", "tenant", "bookings", "machines", "reason", "made_by", "made_at",
            "lifted_at",
        ]  # fmt: skip
        read_only_fields = fields


class WhatToStopSerializer(StrictSerializer[dict[str, Any]]):
    scope = serializers.ChoiceField(choices=EmergencyStop.Scope.choices)
    name = serializers.CharField(
        max_length=100, required=False, default="", allow_blank=True, help_text="A host's name or a slug"
    )


class StopItSerializer(WhatToStopSerializer):
    bookings, machines = serializers.BooleanField(default=False), serializers.BooleanField(default=False)
    reason = serializers.CharField(max_length=200)
    typed = serializers.CharField(max_length=200, help_text="As the preview says, to confirm")
    seen = serializers.CharField(max_length=64, help_text="As the preview says")


class StopEffectSerializer(serializers.Serializer[Any]):
    running = serializers.ListField(child=serializers.UUIDField(), help_text="Leases that would be stopped")
    ahead = serializers.IntegerField(help_text="Bookings that would not start before it is lifted")
    typed, seen = serializers.CharField(), serializers.CharField()


class KeptFlavors(ListView[Flavor]):
    """Every flavor, offered or not."""

    serializer_class = KeptFlavorSerializer
    queryset = Flavor.objects.none()

    def get_queryset(self) -> QuerySet[Flavor]:
        policy.require_fleet_reader(person_of(self.request))
        return flavors.flavors_in_use()

    @extend_schema(request=AddFlavorSerializer, responses={201: KeptFlavorSerializer})
    def post(self, request: Request) -> Response:
        """Add one. It can be booked once it has a rate."""
        policy.require_operator(person_of(request))
        facts = checked(AddFlavorSerializer, request.data)
        model = GpuModel.objects.filter(slug=facts.pop("gpu_model")).first()
        if model is None:
            raise InvalidRequest(_("There is no such GPU model."), field="gpu_model")
        made = flavors.add_flavor(
            actor=api_actor(request), facts={**facts, "model": model}, now=timezone.now()
        )
        return _flavor(made, status.HTTP_201_CREATED)


class KeptFlavorView(ActionView):
    @extend_schema(request=ChangeFlavorSerializer, responses=KeptFlavorSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """Describe it anew; how its machines are built only while nothing is booked."""
        policy.require_operator(person_of(request))
        facts = checked(ChangeFlavorSerializer, request.data)
        return _flavor(
            flavors.change_flavor(actor=api_actor(request), slug=slug, facts=facts, now=timezone.now())
        )


class RetireFlavorView(ActionView):
    @extend_schema(request=NothingSerializer, responses=KeptFlavorSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """It cannot be booked any more; what is booked stays."""
        policy.require_operator(person_of(request))
        checked(NothingSerializer, request.data)
        return _flavor(flavors.retire_flavor(actor=api_actor(request), slug=slug, now=timezone.now()))


class OfferFlavorView(ActionView):
    @extend_schema(request=NothingSerializer, responses=KeptFlavorSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """It can be booked again."""
        policy.require_operator(person_of(request))
        checked(NothingSerializer, request.data)
        return _flavor(flavors.offer_flavor(actor=api_actor(request), slug=slug, now=timezone.now()))


class KeptTenants(ListView[Tenant]):
    """Every tenant with its standing limits."""

    serializer_class = KeptTenantSerializer
    queryset = Tenant.objects.none()

    def get_queryset(self) -> QuerySet[Tenant]:
        policy.require_fleet_reader(person_of(self.request))
        return Tenant.objects.order_by("slug")

    @extend_schema(request=AddTenantSerializer, responses={201: KeptTenantSerializer})
    def post(self, request: Request) -> Response:
        """Add one, with its first owner."""
        policy.require_operator(person_of(request))
        facts = checked(AddTenantSerializer, request.data)
        slug, owner = facts.pop("slug"), facts.pop("owner")
        made = tenants.add_tenant(
            actor=api_actor(request), slug=slug, facts=facts, owner=owner, now=timezone.now()
        )
        return Response(KeptTenantSerializer(made).data, status=status.HTTP_201_CREATED)


class KeptTenantView(ActionView):
    @extend_schema(request=ChangeTenantSerializer, responses=KeptTenantSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """Change its name and standing limits; what is booked stays."""
        policy.require_operator(person_of(request))
        facts = checked(ChangeTenantSerializer, request.data)
        made = tenants.change_tenant(actor=api_actor(request), slug=slug, facts=facts, now=timezone.now())
        return Response(KeptTenantSerializer(made).data)


class AppointView(ActionView):
    @extend_schema(request=OwnerSerializer, responses={204: None})
    def post(self, request: Request, slug: str) -> Response:
        """Make somebody an owner of a tenant."""
        policy.require_operator(person_of(request))
        owner = checked(OwnerSerializer, request.data)["owner"]
        tenants.appoint_owner(actor=api_actor(request), slug=slug, username=owner, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class ReopenView(ActionView):
    @extend_schema(request=NothingSerializer, responses=KeptTenantSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """A closed tenant can be booked for again."""
        policy.require_operator(person_of(request))
        checked(NothingSerializer, request.data)
        made = closing.reopen_tenant(actor=api_actor(request), slug=slug, now=timezone.now())
        return Response(KeptTenantSerializer(made).data)


class EmergencyStops(ListView[EmergencyStop]):
    """What operators have stopped in an emergency, newest first."""

    serializer_class = EmergencyStopSerializer
    queryset = EmergencyStop.objects.none()

    def get_queryset(self) -> QuerySet[EmergencyStop]:
        policy.require_fleet_reader(person_of(self.request))
        return EmergencyStop.objects.select_related("host", "tenant", "made_by")

    @extend_schema(request=StopItSerializer, responses={201: EmergencyStopSerializer})
    def post(self, request: Request) -> Response:
        """Stop it now, as the preview has shown it."""
        policy.require_operator(person_of(request))
        given = checked(StopItSerializer, request.data)
        made = emergency.stop(actor=api_actor(request), now=timezone.now(), **given)
        return Response(EmergencyStopSerializer(made).data, status=status.HTTP_201_CREATED)


class StopPreview(ActionView):
    @extend_schema(request=WhatToStopSerializer, responses=StopEffectSerializer)
    def post(self, request: Request) -> Response:
        """What it would do; changes nothing."""
        policy.require_operator(person_of(request))
        found = emergency.preview_stop(
            actor=api_actor(request), **checked(WhatToStopSerializer, request.data)
        )
        told = {
            "running": [lease.pk for lease in found.running], "ahead": found.ahead, "typed": found.typed,
            "seen": found.seen,
        }  # fmt: skip
        return Response(StopEffectSerializer(told).data)


class LiftStopView(ActionView):
    @extend_schema(request=NothingSerializer, responses=EmergencyStopSerializer)
    def post(self, request: Request, stop_id: int) -> Response:
        """It can be booked and started again."""
        policy.require_operator(person_of(request))
        checked(NothingSerializer, request.data)
        made = emergency.lift_stop(actor=api_actor(request), stop_id=stop_id, now=timezone.now())
        return Response(EmergencyStopSerializer(made).data)


def _flavor(flavor: Flavor, code: int = status.HTTP_200_OK) -> Response:
    return Response(KeptFlavorSerializer(flavors.flavors_in_use().get(pk=flavor.pk)).data, status=code)
