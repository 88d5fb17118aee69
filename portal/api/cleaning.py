"""How GPUs are cleaned, over the API: for operators; auditors may read it."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from hosts.models import GpuModel
from leasing import policy
from leasing.scrub_policy import MOST_METHODS, set_scrub_policy
from portal.api.fields import StrictSerializer
from portal.api.views import ActionView, ListView, api_actor, checked, person_of


class GpuModelSerializer(serializers.ModelSerializer[GpuModel]):
    scrub_methods = serializers.ListField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = GpuModel
        fields = [
            "slug", "name", "memory_mib", "vendor_device", "scrub_methods", "required_reach_permille",
            "read_back",
        ]  # fmt: skip
        read_only_fields = fields


class ScrubPolicySerializer(StrictSerializer[dict[str, Any]]):
    methods = serializers.ListField(
        child=serializers.SlugField(max_length=63), min_length=1, max_length=MOST_METHODS
    )
    required_reach_permille = serializers.IntegerField(min_value=1, max_value=1000)
    read_back = serializers.ChoiceField(GpuModel.ReadBack.choices)


class GpuModelList(ListView[GpuModel]):
    """Kinds of GPUs, and how each is cleaned."""

    serializer_class = GpuModelSerializer
    queryset = GpuModel.objects.none()

    def get_queryset(self) -> QuerySet[GpuModel]:
        policy.require_fleet_reader(person_of(self.request))
        return GpuModel.objects.order_by("slug")


class ScrubPolicyView(ActionView):
    @extend_schema(request=ScrubPolicySerializer, responses=GpuModelSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """Have GPUs of this model cleaned so, from the next cleaning of each on."""
        policy.require_operator(person_of(request))
        chosen = checked(ScrubPolicySerializer, request.data)
        model = set_scrub_policy(actor=api_actor(request), model=slug, now=timezone.now(), **chosen)
        return Response(GpuModelSerializer(model).data)
