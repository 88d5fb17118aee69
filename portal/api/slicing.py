"""Dividing a GPU's card into slices over the API, and making it whole again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from hosts.models import Division, GpuModel
from leasing import policy, slices
from leasing.errors import InvalidRequest
from portal.api.fields import StrictSerializer
from portal.api.leases import NothingSerializer
from portal.api.views import ActionView, api_actor, checked, person_of


class DivideSerializer(StrictSerializer[dict[str, Any]]):
    profile = serializers.CharField(max_length=200, help_text="Name of one of the card's `profiles`")
    count = serializers.IntegerField(min_value=1, max_value=64)
    model = serializers.SlugField(help_text="Slug of the GPU model that each slice is")


class DivisionSerializer(serializers.ModelSerializer[Division]):
    gpu = serializers.UUIDField(source="gpu_id", read_only=True)
    model = serializers.CharField(source="model.slug", read_only=True)

    class Meta:
        model = Division
        fields = ["gpu", "profile", "count", "model", "state", "reason", "ordered_at", "changed_at"]
        read_only_fields = fields


class DivideView(ActionView):
    @extend_schema(request=DivideSerializer, responses={202: DivisionSerializer})
    def post(self, request: Request, gpu_id: UUID) -> Response:
        """Have the card of a clean, unbooked GPU divided.

        It leaves service at once. Its slices come into service as GPUs with it as `parent` when the host has
        made them, and are offered once their intake has proven them clean.
        """
        policy.require_operator(person_of(request))
        asked = checked(DivideSerializer, request.data)
        model = GpuModel.objects.filter(slug=asked["model"]).first()
        if model is None:
            raise InvalidRequest(_("There is no such GPU model."), field="model")
        division = slices.divide_gpu(
            actor=api_actor(request),
            gpu_id=gpu_id,
            profile=asked["profile"],
            count=asked["count"],
            model_id=model.pk,
            now=timezone.now(),
        )
        return Response(DivisionSerializer(division).data, status=202)


class UndivideView(ActionView):
    @extend_schema(request=NothingSerializer, responses={202: DivisionSerializer})
    def post(self, request: Request, gpu_id: UUID) -> Response:
        """Have the slices of a card taken away, none of which may be leased, booked or in cleaning."""
        policy.require_operator(person_of(request))
        checked(NothingSerializer, request.data)
        division = slices.undivide_gpu(actor=api_actor(request), gpu_id=gpu_id, now=timezone.now())
        return Response(DivisionSerializer(division).data, status=202)
