"""Over the API: how each team's month stands, its budget, what is charged to whom; outages."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.billing.budgets import Budget, budget_of, charges, may_set, set_budget, set_budget_rule
from leasing.billing.outages import record_outage, withdraw_outage
from leasing.billing.subjects import outage_subject
from leasing.errors import NotVisible
from leasing.models import BudgetRule, Lease, Outage
from leasing.models.leases import LONGEST_TAG
from leasing.models.prices import CURRENCY
from leasing.quota_requests import LARGEST
from leasing.tags import set_tags
from portal.api.fields import MomentField, StrictSerializer
from portal.api.invoices import InvoiceSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of


def money(**options: Any) -> serializers.DecimalField:
    return serializers.DecimalField(max_digits=16, decimal_places=2, **options)


class ForecastSerializer(serializers.Serializer[Any]):
    """Without tax. `trend` takes the use a day so far for the rest of the month, or what is booked."""

    currency = serializers.CharField()
    used, booked, certain, trend = money(), money(), money(), money()


class ChargeSerializer(serializers.Serializer[Any]):
    project = serializers.CharField()
    cost_centre = serializers.CharField()
    currency = serializers.CharField()
    amount = money()


class BudgetSerializer(serializers.Serializer[Any]):
    """The present month of a tenant, in its zone."""

    tenant = serializers.CharField(source="tenant.slug")
    month = serializers.CharField(source="month.name")
    budget = money(source="limit.value", default=None, allow_null=True)
    currency = serializers.CharField(source="limit.currency", default=None, allow_null=True)
    rule = serializers.ChoiceField(choices=BudgetRule.choices, source="tenant.budget_rule")
    warned_at_percent = serializers.ListField(child=serializers.IntegerField(), source="warned")
    forecasts = ForecastSerializer(many=True)
    charges = serializers.SerializerMethodField()

    @extend_schema_field(ChargeSerializer(many=True))
    def get_charges(self, budget: Budget) -> Any:
        found = charges(budget.tenant, budget.month.name, now=self.context["now"])
        return ChargeSerializer(found, many=True).data


class SetBudgetSerializer(StrictSerializer[dict[str, Any]]):
    """No `budget` leaves it as it is."""

    rule = serializers.ChoiceField(choices=BudgetRule.choices)
    budget = money(min_value=0, max_value=LARGEST, required=False, allow_null=True, default=None)
    currency = serializers.CharField(validators=[CURRENCY], max_length=3, required=False, default="")


class OutageSerializer(serializers.ModelSerializer[Outage]):
    host = serializers.CharField(source="host.name", read_only=True, default=None, allow_null=True)
    model = serializers.CharField(source="model.slug", read_only=True, default=None, allow_null=True)
    starts_at, ends_at, recorded_at, withdrawn_at = moment(), moment(), moment(), moment()

    class Meta:
        model = Outage
        fields = [
            "id",
            "host",
            "gpu",
            "model",
            "starts_at",
            "ends_at",
            "reason",
            "recorded_at",
            "withdrawn_at",
            "withdrawn_because",
        ]
        read_only_fields = fields


class RecordOutageSerializer(StrictSerializer[dict[str, Any]]):
    kind = serializers.ChoiceField(choices=["host", "gpu", "model"])
    id = serializers.CharField(max_length=60, help_text="Of a host or GPU its id, of a model its slug")
    starts_at = MomentField()
    ends_at = MomentField(help_text="Not after now")
    reason = serializers.CharField(max_length=200)


class WithdrawOutageSerializer(StrictSerializer[dict[str, Any]]):
    reason = serializers.CharField(max_length=200)


class RecordedOutageSerializer(serializers.Serializer[Any]):
    outage = OutageSerializer()
    leases = serializers.IntegerField(help_text="So many lay in it")
    credit_notes = InvoiceSerializer(many=True)


class TagsSerializer(StrictSerializer[dict[str, Any]]):
    project = serializers.CharField(max_length=LONGEST_TAG, allow_blank=True)
    cost_centre = serializers.CharField(max_length=LONGEST_TAG, allow_blank=True)


class BudgetList(ActionView):
    @extend_schema(responses=BudgetSerializer(many=True))
    def get(self, request: Request) -> Response:
        """How the month of each team stands whose money you may see."""
        now = timezone.now()
        found = [
            budget_of(one, now=now) for one in policy.invoiced_tenants(person_of(request)).order_by("slug")
        ]
        return Response(BudgetSerializer(found, many=True, context={"now": now}).data)


class BudgetView(ActionView):
    @extend_schema(request=SetBudgetSerializer, responses=BudgetSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """A team's budget a month, and what becomes of what is beyond it; for what is booked from now on."""
        actor, now = api_actor(request), timezone.now()
        tenant = policy.invoiced_tenants(person_of(request)).filter(slug=slug).first()
        if tenant is None or not may_set(actor, tenant):
            raise NotVisible(_("There is nothing here."))
        asked = checked(SetBudgetSerializer, request.data)
        tenant = set_budget_rule(actor=actor, tenant=tenant, rule=asked["rule"], now=now)
        if asked["budget"] is not None:
            set_budget(actor=actor, tenant=tenant, value=asked["budget"], currency=asked["currency"], now=now)
        return Response(BudgetSerializer(budget_of(tenant, now=now), context={"now": now}).data)


class OutageList(ListView[Outage]):
    serializer_class = OutageSerializer
    queryset = Outage.objects.none()

    def get_queryset(self) -> QuerySet[Outage]:
        """What was of no use, the latest first."""
        policy.require_fleet_reader(person_of(self.request))
        return Outage.objects.select_related("host", "model")

    @extend_schema(request=RecordOutageSerializer, responses={201: RecordedOutageSerializer})
    def post(self, request: Request) -> Response:
        """Record an outage that is over: what lies in it is not billed, or credited if it was."""
        policy.require_operator(person_of(request))
        asked = checked(RecordOutageSerializer, request.data)
        what = outage_subject(asked.pop("kind"), asked.pop("id"))
        recorded = record_outage(actor=api_actor(request), what=what, now=timezone.now(), **asked)
        return Response(RecordedOutageSerializer(recorded).data, status=status.HTTP_201_CREATED)


class WithdrawOutageView(ActionView):
    @extend_schema(request=WithdrawOutageSerializer, responses=OutageSerializer)
    def post(self, request: Request, outage_id: int) -> Response:
        """Take an outage back that was none, as long as none of its time is on an invoice."""
        policy.require_operator(person_of(request))
        asked = checked(WithdrawOutageSerializer, request.data)
        outage = withdraw_outage(actor=api_actor(request), outage_id=outage_id, now=timezone.now(), **asked)
        return Response(OutageSerializer(outage).data)


class TagsView(ActionView):
    @extend_schema(request=TagsSerializer, responses=TagsSerializer)
    def post(self, request: Request, lease_id: UUID) -> Response:
        """What a lease is charged to inside its team. What was invoiced stays as it is."""
        lease = Lease.objects.select_related("tenant").filter(pk=lease_id).first()
        if lease is None or not policy.may_tag(person_of(request), lease):
            raise NotVisible(_("There is no such workstation."))
        asked = checked(TagsSerializer, request.data)
        lease = set_tags(actor=api_actor(request), lease_id=lease_id, now=timezone.now(), **asked)
        return Response({"project": lease.project, "cost_centre": lease.cost_centre})
