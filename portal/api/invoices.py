"""Invoices and credit notes over the API; drafts of open months, and closing them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.billing.closing import close_month, draft, still_open
from leasing.billing.months import month_named
from leasing.errors import NotVisible
from leasing.models import Invoice, InvoiceLine, Person, Tenant
from portal.api.fields import StrictSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of
from portal.pages.invoices import fetch_invoice

MONTH = r"^\d{4}-\d{2}$"


class InvoiceSerializer(serializers.ModelSerializer[Invoice]):
    """Amounts of credit notes are negative; `gross` is `net` and `tax`."""

    tenant = serializers.CharField(source="tenant.slug", read_only=True)
    corrects = serializers.CharField(
        source="corrects.number", read_only=True, default=None, allow_null=True, help_text="An invoice"
    )
    reason = serializers.CharField(read_only=True, help_text="Of a credit note")
    starts_at, ends_at, issued_at = moment(), moment(), moment()

    class Meta:
        model = Invoice
        fields = [
            "id", "kind", "number", "tenant", "month", "starts_at", "ends_at", "zone", "currency", "net",
            "tax_label", "tax_percent", "tax", "gross", "issued_at", "corrects", "reason",
        ]  # fmt: skip
        read_only_fields = fields


class InvoiceLineSerializer(serializers.ModelSerializer[InvoiceLine]):
    """`amount` is `seconds` at `rate_per_hour`, rounded once; of credit notes both are negative."""

    corrects = serializers.IntegerField(
        source="corrects.position", read_only=True, default=None, allow_null=True, help_text="A line"
    )
    starts_at, ends_at = moment(), moment()

    class Meta:
        model = InvoiceLine
        fields = [
            "position", "lease", "starts_at", "ends_at", "seconds", "rate_per_hour", "amount", "cause",
            "flavor_name", "gpu_model", "gpus", "person_name", "project", "cost_centre", "corrects",
        ]  # fmt: skip
        read_only_fields = fields


class InvoiceDetailSerializer(InvoiceSerializer):
    lines = InvoiceLineSerializer(many=True, read_only=True)

    class Meta(InvoiceSerializer.Meta):
        fields = [*InvoiceSerializer.Meta.fields, "issuer", "tenant_name", "tenant_address", "lines"]
        read_only_fields = fields


class DraftLineSerializer(serializers.ModelSerializer[InvoiceLine]):
    lease = serializers.UUIDField(source="lease_id", read_only=True, allow_null=True)
    starts_at, ends_at = moment(), moment()

    class Meta:
        model = InvoiceLine
        fields = [
            "lease", "starts_at", "ends_at", "seconds", "rate_per_hour", "amount", "cause", "flavor_name",
            "gpu_model", "gpus", "person_name", "project", "cost_centre",
        ]  # fmt: skip
        read_only_fields = fields


class DraftSerializer(serializers.Serializer[Any]):
    """What an invoice would say now, in one currency."""

    currency = serializers.CharField()
    net = serializers.DecimalField(max_digits=16, decimal_places=2, source="totals.net")
    tax_label = serializers.CharField()
    tax_percent = serializers.DecimalField(max_digits=5, decimal_places=2)
    tax = serializers.DecimalField(max_digits=16, decimal_places=2, source="totals.tax")
    gross = serializers.DecimalField(max_digits=16, decimal_places=2, source="totals.gross")
    lines = DraftLineSerializer(many=True)


class MonthSerializer(serializers.Serializer[Any]):
    """A month of a tenant that is still open; `waiting_for_hosts` are leases that would be left out."""

    tenant = serializers.CharField()
    month = serializers.CharField()
    starts_at = moment()
    ends_at = moment()
    waiting_for_hosts = serializers.ListField(child=serializers.UUIDField())
    drafts = DraftSerializer(many=True)


class MonthQuerySerializer(serializers.Serializer[dict[str, Any]]):
    tenant = serializers.SlugField()
    month = serializers.RegexField(MONTH, help_text="In the tenant's zone, such as 2026-03")


class CloseSerializer(StrictSerializer[dict[str, Any]]):
    tenant = serializers.SlugField()
    month = serializers.RegexField(MONTH, help_text="In the tenant's zone, such as 2026-03")


class InvoiceFilterSerializer(serializers.Serializer[dict[str, Any]]):
    tenant = serializers.SlugField(required=False)
    month = serializers.RegexField(MONTH, required=False)
    kind = serializers.ChoiceField(choices=Invoice.Kind.choices, required=False)


class InvoiceList(ListView[Invoice]):
    serializer_class = InvoiceSerializer
    queryset = Invoice.objects.none()

    def get_queryset(self) -> QuerySet[Invoice]:
        chosen = checked(InvoiceFilterSerializer, self.request.query_params.dict())
        if "tenant" in chosen:
            chosen["tenant__slug"] = chosen.pop("tenant")
        return policy.visible_invoices(person_of(self.request)).filter(**chosen)

    @extend_schema(parameters=[InvoiceFilterSerializer])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Invoices and credit notes that you may see, the latest month first."""
        return super().get(request, *args, **kwargs)


class InvoiceDetail(ActionView):
    @extend_schema(responses=InvoiceDetailSerializer)
    def get(self, request: Request, invoice_id: UUID) -> Response:
        """One invoice or credit note with its lines."""
        found = fetch_invoice(person_of(request), invoice_id)
        return Response(InvoiceDetailSerializer(found).data)


class MonthView(ActionView):
    @extend_schema(parameters=[MonthQuerySerializer], responses=MonthSerializer)
    def get(self, request: Request) -> Response:
        """What would be billed for a month if it were closed now; of the present one, up to now."""
        asked = checked(MonthQuerySerializer, request.query_params.dict())
        tenant, now = _tenant(person_of(request), asked["tenant"]), timezone.now()
        month = month_named(asked["month"], tenant.timezone)
        waiting = still_open(tenant, month.name) if month.ends_at <= now else []
        answer = {
            "tenant": tenant.slug,
            "month": month.name,
            "starts_at": month.starts_at,
            "ends_at": month.ends_at,
            "waiting_for_hosts": [lease.pk for lease in waiting],
            "drafts": draft(tenant, month.name, now=now),
        }
        return Response(MonthSerializer(answer).data)


class CloseView(ActionView):
    @extend_schema(request=CloseSerializer, responses=InvoiceSerializer(many=True))
    def post(self, request: Request) -> Response:
        """Close a month that is over, and issue its invoices. Closing it again changes nothing."""
        policy.require_money_manager(person_of(request))
        asked = checked(CloseSerializer, request.data)
        tenant = _tenant(person_of(request), asked["tenant"])
        closed = close_month(actor=api_actor(request), tenant=tenant, name=asked["month"], now=timezone.now())
        return Response(InvoiceSerializer(closed.invoices, many=True).data)


def _tenant(person: Person, slug: str) -> Tenant:
    found = policy.invoiced_tenants(person).filter(slug=slug).first()
    if found is None:
        raise NotVisible(_("There is nothing here."))
    return found
