"""Images and their versions over the API: for operators; auditors may read them."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import images as service
from leasing import policy
from leasing.models import Image
from portal.api.fields import StrictSerializer
from portal.api.leases import NothingSerializer
from portal.api.views import ActionView, ListView, api_actor, checked, person_of


class ImageVersionSerializer(serializers.ModelSerializer[Image]):
    mounts = serializers.ListField(child=serializers.DictField(), read_only=True)
    ports = serializers.ListField(child=serializers.IntegerField(), read_only=True)
    desktops = serializers.ListField(child=serializers.ChoiceField(Image.Desktop.choices), read_only=True)
    running = serializers.IntegerField(read_only=True, help_text="Leases that run from it")
    booked = serializers.IntegerField(read_only=True, help_text="Leases that are booked with it")
    distributed = serializers.SerializerMethodField(help_text="Whether hosts fetch it from the portal")

    class Meta:
        model = Image
        fields = [
            "id", "slug", "version", *service.FIELDS, "offered", "retired_at", "retired_because", "running",
            "booked", "distributed",
        ]  # fmt: skip
        read_only_fields = fields

    def get_distributed(self, image: Image) -> bool:
        return image.stored_id is not None


class NewVersionSerializer(StrictSerializer[dict[str, Any]]):
    """What is left out is as in the last version."""

    slug = serializers.SlugField(max_length=50)
    upload = serializers.UUIDField(
        required=False, help_text="One that is ready, in the place of format, digest and file_name"
    )
    digest = serializers.CharField(
        max_length=64, required=False, help_text="SHA-256 of the file, or of its manifest"
    )
    file_name = serializers.CharField(
        max_length=63, required=False, help_text="In each host's folder of images"
    )
    name = serializers.CharField(max_length=100, required=False)
    os_family = serializers.CharField(max_length=30, required=False)
    format = serializers.ChoiceField(Image.Format.choices, required=False)
    cmdline = serializers.CharField(max_length=500, required=False, allow_blank=True)
    login = serializers.CharField(max_length=200, required=False, allow_blank=True)
    default_user = serializers.CharField(max_length=32, required=False, allow_blank=True)
    cloud_init = serializers.BooleanField(required=False)
    mounts = serializers.ListField(
        child=serializers.DictField(child=serializers.CharField(max_length=500)),
        required=False,
        max_length=32,
    )
    ports = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=65535),
        required=False,
        max_length=4,
        help_text="TCP ports that are forwarded to it from its host",
    )
    desktops = serializers.ListField(
        child=serializers.ChoiceField(Image.Desktop.choices),
        required=False,
        max_length=len(Image.Desktop),
        help_text="Ways to its desktop that are set up in it, besides Remote Desktop",
    )
    firmware = serializers.ChoiceField(Image.Firmware.choices, required=False)
    tpm = serializers.BooleanField(required=False)
    hides_hypervisor = serializers.BooleanField(required=False)


class RetireImageSerializer(StrictSerializer[dict[str, Any]]):
    reason = serializers.CharField(max_length=200)


class ImageVersions(ListView[Image]):
    """Every version of every image, and by how many leases it is used."""

    serializer_class = ImageVersionSerializer
    queryset = Image.objects.none()

    def get_queryset(self) -> QuerySet[Image]:
        policy.require_fleet_reader(person_of(self.request))
        return service.images_in_use()

    @extend_schema(request=NewVersionSerializer, responses={201: ImageVersionSerializer})
    def post(self, request: Request) -> Response:
        """Offer another version of an image; the one that was offered is retired, and leases keep it."""
        policy.require_operator(person_of(request))
        given = checked(NewVersionSerializer, request.data)
        slug = given.pop("slug")
        image = service.add_version(actor=api_actor(request), slug=slug, facts=given, now=timezone.now())
        return Response(_told(image), status=status.HTTP_201_CREATED)


class RetireImageView(ActionView):
    @extend_schema(request=RetireImageSerializer, responses=ImageVersionSerializer)
    def post(self, request: Request, image_id: int) -> Response:
        """Offer this version no more; leases that have it keep it."""
        policy.require_operator(person_of(request))
        reason = checked(RetireImageSerializer, request.data)["reason"]
        image = service.retire_image(
            actor=api_actor(request), image_id=image_id, reason=reason, now=timezone.now()
        )
        return Response(_told(image))


class OfferImageView(ActionView):
    @extend_schema(request=NothingSerializer, responses=ImageVersionSerializer)
    def post(self, request: Request, image_id: int) -> Response:
        """Offer a retired version again, in place of the one that is offered."""
        policy.require_operator(person_of(request))
        checked(NothingSerializer, request.data)
        image = service.offer_image(actor=api_actor(request), image_id=image_id, now=timezone.now())
        return Response(_told(image))


def _told(image: Image) -> Any:
    return ImageVersionSerializer(service.images_in_use().get(pk=image.pk)).data
