"""Checks of invoices: their sums and numbers; and every bill made anew from the audit log alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from django.db.models import Sum

from leasing.billing.sums import tax_on
from leasing.fsck.finding import Finding
from leasing.fsck.rebuilding import Bill, Rebuilt, rebuild
from leasing.models import Invoice, InvoiceLine, MonthClose, NumberSeries
from leasing.terms import line_amount, whole_seconds


def invoices_add_up(now: datetime) -> Iterator[Finding]:
    """Invoices are the sums of their lines with tax once, and each line is its time at its rate"""
    sums = dict(InvoiceLine.objects.order_by().values_list("invoice").annotate(net=Sum("amount")))
    for invoice in Invoice.objects.select_related("corrects").order_by("issued_at", "number"):
        subject = f"invoice:{invoice.number}"
        if _cents(sums.get(invoice.pk, Decimal(0))) != invoice.net:
            yield Finding(subject, f"its lines come to {sums.get(invoice.pk, 0)}, it says {invoice.net}")
        if invoice.net + invoice.tax != invoice.gross:
            yield Finding(subject, "net and tax are not its total")
    yield from _taxes()
    for line in InvoiceLine.objects.select_related("invoice", "segment").iterator():
        if fault := _fault_of(line):
            yield Finding(f"invoice:{line.invoice.number}", f"line {line.position}: {fault}")


def numbers_have_no_gaps(now: datetime) -> Iterator[Finding]:
    """Invoices and credit notes of a year are numbered from one on, without a gap"""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number in Invoice.objects.values_list("number", flat=True):
        series, _, place = number.partition("-")
        numbers[series].append(int(place))
    last = dict(NumberSeries.objects.values_list("name", "last"))
    for series in sorted(numbers.keys() | last.keys()):
        count = last.get(series, 0)
        if sorted(numbers[series]) != list(range(1, count + 1)):
            yield Finding(
                f"series:{series}", f"has {len(numbers[series])} numbers, the last given is {count}"
            )


def bills_follow_from_the_log(now: datetime) -> Iterator[Finding]:
    """Every invoice and credit note is what the audit log alone would make of it, to the cent"""
    rebuilt = rebuild()
    written = {invoice.number: invoice for invoice in Invoice.objects.select_related("corrects", "tenant")}
    for number in sorted(written.keys() ^ rebuilt.bills.keys()):
        told = "is not in the audit log" if number in written else "is told of, but there is none"
        yield Finding(f"invoice:{number}", told)
    for number in sorted(written.keys() & rebuilt.bills.keys()):
        yield from _differences(written[number], rebuilt.bills[number])
    yield from _closes(rebuilt)
    for number, lease in rebuilt.owed:
        yield Finding(f"lease:{lease}", f"less is due than invoice {number} and its credit notes say")


def _taxes() -> Iterator[Finding]:
    """Of an invoice with its credit notes, up to each of them."""
    left: dict[str, Decimal] = {}
    taxed: dict[str, Decimal] = {}
    # Invoices come before what corrects them, and credit notes in the order of their numbers.
    for one in Invoice.objects.select_related("corrects").order_by("-kind", "number"):
        of = one.corrects.number if one.corrects else one.number
        left[of] = left.get(of, Decimal(0)) + one.net
        taxed[of] = taxed.get(of, Decimal(0)) + one.tax
        if taxed[of] != tax_on(left[of], one.tax_percent, one.currency):
            yield Finding(f"invoice:{one.number}", f"its tax of {one.tax} is not {one.tax_percent} per cent")
    for one in Invoice.objects.filter(kind=Invoice.Kind.INVOICE):
        if left[one.number] < 0:
            yield Finding(f"invoice:{one.number}", "more was credited than was billed")


def _fault_of(line: InvoiceLine) -> str:
    if line.corrects_id is not None:
        return "" if line.seconds < 0 and line.amount <= 0 else "a correction that takes nothing back"
    segment = line.segment
    assert segment is not None  # noqa: S101 - a constraint says so
    told = (line.lease_id, line.starts_at, line.ends_at, line.rate_per_hour, line.cause)
    if told != (segment.lease_id, segment.starts_at, segment.ends_at, segment.rate_per_hour, segment.cause):
        return "is not the segment that it bills"
    if line.seconds != whole_seconds(line.starts_at, line.ends_at):
        return f"lasts {whole_seconds(line.starts_at, line.ends_at)} seconds, not {line.seconds}"
    due = line_amount(seconds=line.seconds, rate_per_hour=line.rate_per_hour, currency=line.invoice.currency)
    return "" if line.amount == due else f"comes to {due}, not {line.amount}"


def _differences(invoice: Invoice, bill: Bill) -> Iterator[Finding]:
    subject = f"invoice:{invoice.number}"
    said = (invoice.net, invoice.tax, invoice.gross, invoice.tenant.slug, invoice.currency)
    if said != (bill.net, bill.tax, bill.gross, bill.tenant, bill.currency):
        yield Finding(subject, f"says {invoice.net} + {invoice.tax}, the log {bill.net} + {bill.tax}")
    columns = (
        "lease_id", "segment__volume_id", "segment__snapshot_id", "starts_at", "ends_at", "seconds",
        "rate_per_hour", "amount", "cause", "project", "cost_centre",
    )  # fmt: skip
    rows = invoice.lines.values_list(*columns)
    written = Counter((str(lease or volume or snapshot), *rest) for lease, volume, snapshot, *rest in rows)
    due = Counter(map(tuple, bill.lines))
    for line in (due - written).elements():
        yield Finding(subject, f"{line[0]} from {line[1]}: {line[5]} should be on it")
    for line in (written - due).elements():
        yield Finding(subject, f"{line[0]} from {line[1]}: {line[5]} should not be on it")


def _closes(rebuilt: Rebuilt) -> Iterator[Finding]:
    closed = set(MonthClose.objects.values_list("tenant__slug", "month"))
    for tenant, month in sorted(closed ^ rebuilt.closed):
        yield Finding(f"month:{tenant}/{month}", "is closed in the log or in the table, not in both")


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.01"))
