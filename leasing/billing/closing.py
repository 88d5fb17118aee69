"""Closing a month: what was used becomes invoices, once and for all; until then it is a draft.

A usage segment is billed by the first month to be closed by whose end it is over. What becomes known only
after its month was closed is on the next invoice; what a silent host may still tell about waits for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import F, Q, QuerySet
from django.utils.translation import gettext as _

from leasing import policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.billing.issuing import frozen_facts, issue, tax_in_force
from leasing.billing.months import Month, month_named, month_of
from leasing.billing.sums import Totals, totals_of
from leasing.errors import WrongState
from leasing.locking import locked
from leasing.metering import billed_until
from leasing.models import Invoice, InvoiceLine, Lease, MonthClose, Tenant, UsageSegment
from leasing.states.lease import ON_HOST
from leasing.storing import follow_all_kept
from leasing.terms import line_amount, whole_seconds
from leasing.timing import INSTANT
from leasing.transactions import atomically


@dataclass(frozen=True)
class Draft:
    """What an invoice would say now. Nothing of it is stored."""

    currency: str
    lines: list[InvoiceLine]
    totals: Totals
    tax_label: str
    tax_percent: Decimal


@dataclass(frozen=True)
class Closed:
    """A month that is closed, and its invoices; `fresh` if that was done just now."""

    close: MonthClose
    invoices: list[Invoice]
    fresh: bool = False


def draft(tenant: Tenant, name: str, *, now: datetime) -> list[Draft]:
    """What would be billed for a month, by currency; of the present one, up to now."""
    month = month_named(name, tenant.timezone)
    until = min(now, month.ends_at)
    segments = _related((_due(tenant, month) | _kept(tenant)).filter(starts_at__lt=until))
    lines = [line for line in (_line(one, until) for one in segments) if line.seconds or line.amount]
    tax = tax_in_force(tenant, month.ends_at - INSTANT)
    return [
        Draft(currency, theirs, totals_of([one.amount for one in theirs], tax[1], currency), *tax)
        for currency, theirs in _by_currency(lines, {one.pk: one.currency for one in segments})
    ]


def still_open(tenant: Tenant, name: str) -> QuerySet[Lease]:
    """Leases whose use in a month would not be billed if it were closed now: their hosts are silent."""
    month = month_named(name, tenant.timezone)
    return Lease.objects.filter(pk__in=_silent(tenant, month)).select_related("host", "flavor", "owner")


def close_month(*, actor: Actor, tenant: Tenant, name: str, now: datetime) -> Closed:
    """Close a month that is over, and issue its invoices. Closing it again changes nothing.

    Months are closed in order. Raises InvalidRequest, NotVisible or WrongState.
    """
    if actor.kind != "system":
        policy.require_money_manager(actor.person)
    month_named(name, tenant.timezone)
    return _close(actor, tenant.pk, name, now)


def closed_month(tenant: Tenant, name: str) -> Closed | None:
    close = MonthClose.objects.filter(tenant=tenant, month=name).first()
    return Closed(close, list(_invoices(tenant, name))) if close else None


def months_due(tenant: Tenant, *, now: datetime) -> list[str]:
    """Those that are over and not closed, since there is something to bill; the last one in any case."""
    first = UsageSegment.objects.filter(line=None, tenant=tenant).order_by("starts_at").first()
    present = month_of(now, tenant.timezone)
    last = month_of(present.starts_at - INSTANT, tenant.timezone)
    at = month_of(min(first.starts_at, last.starts_at), tenant.timezone) if first else last
    closed = set(MonthClose.objects.filter(tenant=tenant).values_list("month", flat=True))
    found = []
    while at.starts_at < present.starts_at:
        if at.name not in closed:
            found.append(at.name)
        at = month_of(at.ends_at, tenant.timezone)
    return found


@atomically
def _close(actor: Actor, tenant_id: UUID, name: str, now: datetime) -> Closed:
    tenant = locked(Tenant.objects.all()).get(pk=tenant_id)
    if (known := closed_month(tenant, name)) is not None:
        return known
    month = month_named(name, tenant.timezone)
    if now < month.ends_at:
        hint = _("Close it when it is; its draft shows what there is.")
        raise WrongState(_("This month is not over."), hint=hint)
    silent = set(_silent(tenant, month))
    due = _due(tenant, month).exclude(lease__in=silent)
    # Whoever changes segments has locked their lease.
    leases = [one.pk for one in locked(Lease.objects.filter(pk__in=due.values("lease"))).order_by("pk")]
    follow_all_kept(tenant, now=now)
    segments = list(_related(due.filter(Q(lease__in=leases) | Q(lease=None))))
    _check_order(segments, tenant, month)
    invoices = _issue_all(tenant, month, segments, now=now)
    close = MonthClose.objects.create(
        tenant=tenant,
        month=name,
        starts_at=month.starts_at,
        ends_at=month.ends_at,
        closed_at=now,
        closed_by=actor.person,
    )
    record(
        action="month.close",
        actor=actor,
        subject=f"month:{tenant.slug}/{name}",
        tenant=tenant,
        now=now,
        month=name,
        starts_at=month.starts_at,
        ends_at=month.ends_at,
        zone=tenant.timezone,
        invoices=[facts_of(invoice) for invoice in invoices],
        waiting_for_hosts=sorted(str(pk) for pk in silent),
    )
    return Closed(close, invoices, fresh=True)


def facts_of(invoice: Invoice) -> dict[str, object]:
    """What the audit log says of an invoice or credit note."""
    names = ("number", "currency", "net", "tax_label", "tax_percent", "tax", "gross")
    return {name: getattr(invoice, name) for name in names}


def _issue_all(tenant: Tenant, month: Month, segments: list[UsageSegment], *, now: datetime) -> list[Invoice]:
    for one in segments:
        if one.ends_at is None and one.lease is not None:
            one.ends_at = one.lease.ends_at
            one.save(update_fields=["ends_at"])
    tax = tax_in_force(tenant, month.ends_at - INSTANT)
    lines = [_line(one, month.ends_at) for one in segments]
    return [
        issue(
            tenant=tenant,
            month=month,
            currency=currency,
            lines=theirs,
            totals=totals_of([one.amount for one in theirs], tax[1], currency),
            tax=tax,
            now=now,
        )
        for currency, theirs in _by_currency(lines, {one.pk: one.currency for one in segments})
    ]


def _line(segment: UsageSegment, until: datetime) -> InvoiceLine:
    """The segment as it is billed, up to a time at most."""
    ends_at = billed_until(segment, until)
    seconds = whole_seconds(segment.starts_at, ends_at)
    return InvoiceLine(
        segment=segment,
        starts_at=segment.starts_at,
        ends_at=ends_at,
        seconds=seconds,
        rate_per_hour=segment.rate_per_hour,
        amount=line_amount(seconds=seconds, rate_per_hour=segment.rate_per_hour, currency=segment.currency),
        cause=segment.cause,
        **frozen_facts(segment),
    )


def _by_currency(
    lines: Iterable[InvoiceLine], currencies: dict[int, str]
) -> list[tuple[str, list[InvoiceLine]]]:
    found: dict[str, list[InvoiceLine]] = defaultdict(list)
    for line in lines:
        found[currencies[line.segment_id or 0]].append(line)
    return sorted(found.items())


def _due(tenant: Tenant, month: Month) -> QuerySet[UsageSegment]:
    """What is over by the end of the month, and on no invoice."""
    segments = UsageSegment.objects.filter(line=None, tenant=tenant)
    over = Q(ends_at__lte=month.ends_at) | Q(ends_at=None, lease__ends_at__lte=month.ends_at)
    return segments.filter(over)


def _kept(tenant: Tenant) -> QuerySet[UsageSegment]:
    """What is kept on: a draft has it up to now."""
    return UsageSegment.objects.filter(line=None, tenant=tenant, lease=None, ends_at=None)


def _related(segments: QuerySet[UsageSegment]) -> QuerySet[UsageSegment]:
    related = segments.select_related("lease__flavor__model", "volume", "snapshot", "person")
    # What is kept comes last, on every database.
    by_lease = ("lease__project", "lease__cost_centre", "lease__starts_at", "lease", "starts_at")
    return related.order_by(F("volume").asc(nulls_first=True), F("snapshot").asc(nulls_first=True), *by_lease)


def _silent(tenant: Tenant, month: Month) -> QuerySet[Lease, UUID]:
    """Leases on hosts that have said nothing since the month was over: how long they ran is not proven."""
    unheard = Q(host__last_seen_at=None) | Q(host__last_seen_at__lt=month.ends_at)
    leases = Lease.objects.filter(unheard, tenant=tenant, state__in=ON_HOST, active_at__isnull=False)
    return leases.filter(starts_at__lt=month.ends_at).values_list("pk", flat=True)


def _check_order(segments: Iterable[UsageSegment], tenant: Tenant, month: Month) -> None:
    starts = [one.starts_at for one in segments if one.starts_at < month.starts_at]
    if not starts:
        return
    closed = set(MonthClose.objects.filter(tenant=tenant).values_list("month", flat=True))
    for name in sorted({month_of(at, tenant.timezone).name for at in starts}):
        if name not in closed:
            raise WrongState(
                _("%(month)s has not been closed yet.") % {"month": name},
                hint=_("Close the months in their order."),
                field="month",
            )


def _invoices(tenant: Tenant, name: str) -> QuerySet[Invoice]:
    found = Invoice.objects.filter(tenant=tenant, month=name, kind=Invoice.Kind.INVOICE)
    return found.order_by(F("currency"))
