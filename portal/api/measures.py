"""What a booking does to each limit, as the book page and approvals show it."""

from __future__ import annotations

from rest_framework import serializers

from leasing.limits import Measure
from leasing.models import QuotaKind


class MeasureSerializer(serializers.Serializer[Measure]):
    """What is booked and used, what is asked for adds, and the limit, in the unit of its kind."""

    kind = serializers.ChoiceField(choices=QuotaKind.choices, source="limit.kind")
    own = serializers.BooleanField(source="limit.own", help_text="The owner's alone, not the whole tenant's")
    gpu_model = serializers.CharField(source="limit.model_name", help_text="Empty for all models")
    month = serializers.CharField(help_text="The month of a monthly limit, in the tenant's zone; else empty")
    currency = serializers.CharField(source="limit.currency")
    there = serializers.DecimalField(max_digits=14, decimal_places=2)
    asked = serializers.DecimalField(max_digits=14, decimal_places=2)
    limit = serializers.DecimalField(max_digits=14, decimal_places=2, source="limit.value")
    after = serializers.DecimalField(
        max_digits=14, decimal_places=2, source="total", help_text="What there would be with it"
    )
    is_over = serializers.BooleanField()
