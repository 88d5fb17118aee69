"""Invoices and credit notes are issued: numbered without gaps, with everything frozen that stands on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from django.conf import settings
from django.db.models import F, Q

from leasing.billing.months import Month
from leasing.billing.sums import Totals
from leasing.locking import locked
from leasing.models import Invoice, InvoiceLine, NumberSeries, TaxRate, Tenant, UsageSegment
from leasing.reasons import NONE, Reason

NO_TAX = ("", Decimal(0))
_PREFIXES = {Invoice.Kind.INVOICE: "", Invoice.Kind.CREDIT: "C"}


def take_number(kind: str, *, now: datetime) -> str:
    """The next number of the year's series. Its row stays locked: a number that is not used is not lost."""
    name = f"{_PREFIXES[Invoice.Kind(kind)]}{now.astimezone(UTC):%Y}"
    NumberSeries.objects.get_or_create(name=name)
    series = locked(NumberSeries.objects.filter(name=name)).get()
    series.last += 1
    series.save(update_fields=["last"])
    return f"{name}-{series.last:06d}"


def tax_in_force(tenant: Tenant, at: datetime) -> tuple[str, Decimal]:
    """Its name and per cent: the tenant's own, else its region's, else that of no region."""
    about = Q(tenant=tenant) | Q(tenant=None, region__in=["", tenant.region])
    valid = Q(valid_until=None) | Q(valid_until__gt=at)
    rates = TaxRate.objects.filter(about, valid, valid_from__lte=at)
    found = rates.order_by(F("tenant").desc(nulls_last=True), "-region", "-valid_from", "-id").first()
    return (found.label, found.percent) if found else NO_TAX


def issue(
    *,
    tenant: Tenant,
    month: Month,
    currency: str,
    lines: Sequence[InvoiceLine],
    totals: Totals,
    tax: tuple[str, Decimal],
    corrects: Invoice | None = None,
    reason: Reason = NONE,
    now: datetime,
) -> Invoice:
    """Number and write an invoice, or a credit note if it corrects one, with its lines in this order."""
    kind = Invoice.Kind.CREDIT if corrects else Invoice.Kind.INVOICE
    invoice = Invoice.objects.create(
        kind=kind,
        number=take_number(kind, now=now),
        tenant=tenant,
        month=month.name,
        starts_at=month.starts_at,
        ends_at=month.ends_at,
        zone=tenant.timezone,
        currency=currency,
        net=totals.net,
        tax_label=tax[0],
        tax_percent=tax[1],
        tax=totals.tax,
        gross=totals.gross,
        issued_at=now,
        corrects=corrects,
        reason=reason,
        issuer=settings.INVOICE_ISSUER[:500],
        tenant_name=tenant.name,
        tenant_address=tenant.billing_address,
    )
    for position, line in enumerate(lines, 1):
        line.invoice, line.position = invoice, position
    InvoiceLine.objects.bulk_create(lines)
    return invoice


def frozen_facts(segment: UsageSegment) -> dict[str, object]:
    """What a line says of a lease or a volume, as it is now, and of who had it."""
    lease, kept = segment.lease, segment.kept
    if lease is None:
        return {"flavor_name": kept.name if kept else "", "gpus": 0, "person_name": str(segment.person)}
    return {
        "lease": lease,
        "flavor_name": lease.flavor.name,
        "gpu_model": lease.flavor.model.name,
        "gpus": lease.flavor.gpu_count,
        "person_name": str(segment.person),
        "project": lease.project,
        "cost_centre": lease.cost_centre,
    }
