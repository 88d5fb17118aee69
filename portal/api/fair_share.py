"""What the fair share of each team weighs, over the API: for operators; auditors may read it."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.fair_share import HEAVIEST, set_weight
from leasing.models import Tenant
from portal.api.fields import StrictSerializer
from portal.api.views import ActionView, ListView, api_actor, checked, person_of


class WeightSerializer(serializers.ModelSerializer[Tenant]):
    class Meta:
        model = Tenant
        fields = ["slug", "name", "weight"]
        read_only_fields = fields


class SetWeightSerializer(StrictSerializer[dict[str, Any]]):
    weight = serializers.IntegerField(min_value=1, max_value=HEAVIEST)


class WeightList(ListView[Tenant]):
    """All teams, and what the fair share of each weighs against the others'."""

    serializer_class = WeightSerializer
    queryset = Tenant.objects.none()

    def get_queryset(self) -> QuerySet[Tenant]:
        policy.require_fleet_reader(person_of(self.request))
        return Tenant.objects.order_by("slug")


class WeightView(ActionView):
    @extend_schema(request=SetWeightSerializer, responses=WeightSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """What a team's fair share weighs, for whoever joins a line from now on."""
        policy.require_operator(person_of(request))
        weight = checked(SetWeightSerializer, request.data)["weight"]
        tenant = set_weight(actor=api_actor(request), tenant=slug, weight=weight, now=timezone.now())
        return Response(WeightSerializer(tenant).data)
