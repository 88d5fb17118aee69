"""USB devices over the API: which can be had with a flavor, and other ones for what has not begun."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.choosing_devices import choose_devices
from leasing.devices import devices_for
from portal.api.fields import DevicesField, StrictSerializer
from portal.api.leases import shown
from portal.api.named import flavor_named
from portal.api.serializers import LeaseDetailSerializer, UsbDeviceSerializer
from portal.api.views import ActionView, api_actor, checked, person_of


class OfFlavorSerializer(StrictSerializer[dict[str, Any]]):
    flavor = serializers.SlugField()


class DevicesSerializer(StrictSerializer[dict[str, Any]]):
    usb = DevicesField()


class DeviceList(ActionView):
    @extend_schema(parameters=[OfFlavorSerializer], responses=UsbDeviceSerializer(many=True))
    def get(self, request: Request) -> Response:
        """The USB devices of which hosts of this flavor have one plugged in; each goes to one at a time."""
        asked = checked(OfFlavorSerializer, request.query_params.dict())
        return Response(UsbDeviceSerializer(devices_for(flavor_named(asked["flavor"])), many=True).data)


class LeaseDevicesView(ActionView):
    @extend_schema(request=DevicesSerializer, responses=LeaseDetailSerializer)
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Have these devices plugged in instead, while it has not begun; an empty list is none."""
        policy.fetch_lease(person_of(request), lease_id, "use")
        usb = checked(DevicesSerializer, request.data)["usb"]
        return shown(choose_devices(actor=api_actor(request), lease_id=lease_id, usb=usb, now=timezone.now()))
