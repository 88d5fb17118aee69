"""The reports of the browser: cost and GPU-hours over time, and what became of the fleet's time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.errors import NotVisible
from leasing.exports.sums import Sum, sums
from leasing.fleet_use import fleet_use
from leasing.models import Person
from portal.api.views import ActionView, person_of
from portal.pages.fleet_use import may_read
from portal.pages.usage_chart import Span, spans_of
from portal.pages.usage_form import BY, UsageForm, found, midnight


class PeriodSerializer(serializers.Serializer[dict[str, Any]]):
    """Days in your own zone, this month up to today unless you say others."""

    since = serializers.DateField(required=False, help_text="the first day")
    through = serializers.DateField(required=False, help_text="the last day")
    month = serializers.CharField(required=False, help_text="such as 2026-03, instead of days")


class ReportQuerySerializer(PeriodSerializer):
    tenant = serializers.SlugField(required=False)
    person = serializers.CharField(required=False, max_length=150)
    model = serializers.SlugField(required=False, help_text="of the GPU")
    project = serializers.CharField(required=False, max_length=60)
    cost_centre = serializers.CharField(required=False, max_length=60)
    by = serializers.ChoiceField(choices=list(BY), default="tenant")


class SpanSerializer(serializers.Serializer[Span]):
    """Whole days, a day each or, if more than 92 are meant, a month."""

    first = serializers.DateField()
    last = serializers.DateField()


class SumSerializer(serializers.Serializer[Sum]):
    """What somebody or something had in a span: the parts of a line add up to the line, to the cent."""

    span = serializers.IntegerField(help_text="counted from 0, in `spans`")
    key = serializers.CharField()
    name = serializers.CharField()
    currency = serializers.CharField()
    gpu_seconds = serializers.IntegerField()
    amount = serializers.DecimalField(max_digits=None, decimal_places=2)


@dataclass(frozen=True)
class Report:
    spans: list[Span]
    sums: list[Sum]


class ReportSerializer(serializers.Serializer[Report]):
    spans = SpanSerializer(many=True)
    sums = SumSerializer(many=True)


class ModelUseSerializer(serializers.Serializer[Any]):
    """Seconds of a model's GPUs. `used` is part of `booked`, `unused` the rest of it."""

    slug = serializers.SlugField()
    name = serializers.CharField()
    gpus = serializers.IntegerField()
    there = serializers.IntegerField(help_text="all time since they came into service")
    booked = serializers.IntegerField()
    used = serializers.IntegerField()
    unused = serializers.IntegerField()
    repair = serializers.IntegerField(help_text="out of service")
    idle = serializers.IntegerField()


class UsageReportView(ActionView):
    @extend_schema(parameters=[ReportQuerySerializer], responses=ReportSerializer)
    def get(self, request: Request) -> Response:
        """Cost and GPU time by day or month, by team, person or model, as the page “Usage” draws it."""
        person = person_of(request)
        if not policy.invoiced_tenants(person).exists():
            raise NotVisible(_("There is nothing here."))
        form = _asked(person, request.query_params.dict())
        spans = spans_of(*form.days)
        edges = [midnight(span.first) for span in spans] + [_after(spans[-1])]
        had = sums(found(person, form), edges, by=form.divided, now=timezone.now())
        return Response(ReportSerializer(Report(spans, had)).data)


class FleetUseView(ActionView):
    @extend_schema(parameters=[PeriodSerializer], responses=ModelUseSerializer(many=True))
    def get(self, request: Request) -> Response:
        """What became of the time of each model's GPUs: booked, used, out of service, idle."""
        person = person_of(request)
        if not may_read(person):
            raise NotVisible(_("There is nothing here."))
        first, last = _asked(person, request.query_params.dict()).days
        use = fleet_use(midnight(first), midnight(last + timedelta(days=1)), now=timezone.now())
        return Response(ModelUseSerializer([one for one in use if one.there], many=True).data)


def _asked(person: Person, query: Mapping[str, str]) -> UsageForm:
    """The filter of the pages, so that the same words mean the same."""
    form = UsageForm(person, query)
    if not form.is_valid():
        raise serializers.ValidationError(
            {name: list(map(str, faults)) for name, faults in form.errors.items()}
        )
    return form


def _after(span: Span) -> datetime:
    return midnight(span.last + timedelta(days=1))
