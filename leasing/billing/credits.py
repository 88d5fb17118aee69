"""Corrections after a month was closed: a credit note for what turns out not to be due."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from django.db.models import Sum
from django.db.models.functions import Coalesce

from leasing.actors import Actor
from leasing.audit.log import record
from leasing.billing.issuing import issue
from leasing.billing.months import Month
from leasing.billing.sums import Owed, credit_for, credit_totals
from leasing.metering import billed_seconds_within, due_lines
from leasing.models import Invoice, InvoiceLine, Lease, UsageSegment
from leasing.reasons import Reason
from leasing.terms import Span


def correct(leases: Iterable[Lease], reason: Reason, *, actor: Actor, now: datetime) -> list[Invoice]:
    """Credit what was billed for these leases and is not due any more; one credit note for each invoice.

    The caller has locked the leases. Doing it again changes nothing.
    """
    found: dict[Invoice, list[InvoiceLine]] = defaultdict(list)
    for lease in leases:
        for line in _credits(lease):
            assert line.corrects is not None  # noqa: S101 - a credit corrects a line
            found[line.corrects.invoice].append(line)
    by_number = sorted(found.items(), key=lambda pair: pair[0].number)
    return [_issue(invoice, lines, reason, actor=actor, now=now) for invoice, lines in by_number]


def left_of(invoice: Invoice) -> Decimal:
    """The net that is owed of an invoice after its credit notes."""
    credited: Decimal = invoice.credit_notes.aggregate(net=Coalesce(Sum("net"), Decimal(0)))["net"]
    return invoice.net + credited


def _credits(lease: Lease) -> list[InvoiceLine]:
    billed = InvoiceLine.objects.filter(lease=lease, corrects=None, cause=UsageSegment.Cause.USE)
    lines = list(
        billed.select_related("invoice__tenant")
        .annotate(
            credited_seconds=Coalesce(Sum("credits__seconds"), 0),
            credited_amount=Coalesce(Sum("credits__amount"), Decimal(0)),
        )
        .order_by("invoice", "position")
    )
    due = due_lines(lease) if lines else []
    found = []
    for line in lines:
        owed = Owed(line.seconds + line.credited_seconds, line.amount + line.credited_amount)
        credit = credit_for(
            owed,
            seconds_due=billed_seconds_within(due, Span(line.starts_at, line.ends_at)),
            rate_per_hour=line.rate_per_hour,
            currency=line.invoice.currency,
        )
        if credit is not None:
            found.append(_line(line, credit))
    return found


def _line(line: InvoiceLine, credit: Owed) -> InvoiceLine:
    """As on the invoice, but for how much."""
    same = (
        "lease_id starts_at ends_at rate_per_hour cause flavor_name gpu_model gpus person_name project"
        " cost_centre"
    )
    facts = {name: getattr(line, name) for name in same.split()}
    return InvoiceLine(corrects=line, seconds=credit.seconds, amount=credit.amount, **facts)


def _issue(
    invoice: Invoice, lines: list[InvoiceLine], reason: Reason, *, actor: Actor, now: datetime
) -> Invoice:
    totals = credit_totals(
        [line.amount for line in lines],
        left=left_of(invoice),
        percent=invoice.tax_percent,
        currency=invoice.currency,
    )
    note = issue(
        tenant=invoice.tenant,
        month=Month(invoice.month, invoice.starts_at, invoice.ends_at),
        currency=invoice.currency,
        lines=lines,
        totals=totals,
        tax=(invoice.tax_label, invoice.tax_percent),
        corrects=invoice,
        reason=reason,
        now=now,
    )
    record(
        action="invoice.credit",
        actor=actor,
        subject=f"invoice:{note.number}",
        tenant=invoice.tenant,
        now=now,
        corrects=invoice.number,
        net=note.net,
        tax=note.tax,
        gross=note.gross,
        currency=note.currency,
        reason=reason.in_english(),
    )
    return note
