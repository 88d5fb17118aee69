"""Every bill from the audit log alone: leases, outages and closed months are told again, and billed again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from leasing.billing.sums import Owed, credit_for
from leasing.fsck.history import Act, acts
from leasing.fsck.ledger import Booking
from leasing.fsck.retelling import BOOKS, booked, change_of, moment
from leasing.fsck.storage import KeptTold, note_kept, price_told
from leasing.metering import Cause, Due, billable_span, billed_seconds_within, due, overrun_span, without
from leasing.states.lease import LeaseState
from leasing.storing import StoragePrice
from leasing.terms import Span, cut_span, line_amount, month_cuts, whole_seconds


class Line(NamedTuple):
    """One line of a bill, for a lease or what is kept; of credit notes, seconds and amount are negative."""

    subject: str
    starts_at: datetime
    ends_at: datetime
    seconds: int
    rate_per_hour: Decimal
    amount: Decimal
    cause: str
    project: str
    cost_centre: str


@dataclass
class Bill:
    """An invoice or credit note. The sums are those that its entry says, the lines are made anew."""

    tenant: str
    currency: str
    net: Decimal
    tax: Decimal
    gross: Decimal
    lines: list[Line] = field(default_factory=list)


@dataclass
class Rebuilt:
    """Bills by their number, the closed months, and (number, lease) of what should be credited and is not."""

    bills: dict[str, Bill] = field(default_factory=dict)
    closed: set[tuple[str, str]] = field(default_factory=set)
    owed: list[tuple[str, str]] = field(default_factory=list)


class _Outage(NamedTuple):
    span: Span
    gpus: frozenset[str]
    model: str


@dataclass
class _Story:
    """What was told so far."""

    bookings: dict[str, Booking] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)
    gpus: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    outages: dict[str, _Outage] = field(default_factory=dict)
    billed: dict[str, list[tuple[str, Line]]] = field(default_factory=lambda: defaultdict(list))
    billed_on: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    unbilled: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    credited: dict[tuple[str, str, datetime], Owed] = field(default_factory=dict)
    kept: dict[str, KeptTold] = field(default_factory=dict)
    prices: list[StoragePrice] = field(default_factory=list)
    stored: set[tuple[str, datetime]] = field(default_factory=set)
    rebuilt: Rebuilt = field(default_factory=Rebuilt)


def rebuild() -> Rebuilt:
    """Read the whole log."""
    story = _Story()
    told = (
        "lease.",
        "gpu.hand-over",
        "outage.",
        "home.",
        "snapshot.",
        "storage-rate.",
        "month.close",
        "invoice.credit",
    )
    for act in acts(*told):
        _TELL[act.action.partition(".")[0]](story, act)
    for lease in story.billed:
        story.rebuilt.owed += [(number, lease) for number, _line in _credits(story, lease)]
    return story.rebuilt


def _tell_lease(story: _Story, act: Act) -> None:
    if act.event in BOOKS:
        story.bookings[act.subject_id] = booked(act)
        story.zones[act.subject_id] = act.detail["zone"]
        story.unbilled[act.tenant or ""].add(act.subject_id)
    booking = story.bookings.get(act.subject_id)
    change = change_of(act)
    if booking is not None and change is not None:
        change(booking, act)


def _tell_gpu(story: _Story, act: Act) -> None:
    story.gpus[act.detail["lease"]].add(act.subject_id)


def _tell_outage(story: _Story, act: Act) -> None:
    told = act.detail
    if act.event == "withdraw":
        del story.outages[act.subject_id]
        return
    span = Span(moment(told["starts_at"]), moment(told["ends_at"]))
    story.outages[act.subject_id] = _Outage(span, frozenset(told["gpus"]), told["model"])


def _tell_kept(story: _Story, act: Act) -> None:
    note_kept(story.kept, act)


def _tell_storage_rate(story: _Story, act: Act) -> None:
    story.prices.append(price_told(act))


def _tell_month(story: _Story, act: Act) -> None:
    told, tenant = act.detail, act.tenant or ""
    story.rebuilt.closed.add((tenant, told["month"]))
    until, waiting = moment(told["ends_at"]), set(told["waiting_for_hosts"])
    lines: dict[str, list[Line]] = defaultdict(list)
    for lease in sorted(story.unbilled[tenant] - waiting):
        booking, ahead = story.bookings[lease], False
        frozen = [Span(line.starts_at, line.ends_at) for _number, line in story.billed[lease]]
        for line in without(_due(story, lease), frozen):
            if line.ends_at <= until:
                lines[booking.currency].append(_line(story, lease, line))
            else:
                ahead = True
        if booking.state == LeaseState.ENDED and not ahead:
            story.unbilled[tenant].remove(lease)
    for currency, stored in _stored(story, tenant, told["zone"], until=until, now=act.recorded_at):
        lines[currency].append(stored)
        story.stored.add((stored.subject, stored.starts_at))
    for invoice in told["invoices"]:
        theirs = lines.pop(invoice["currency"], [])
        story.rebuilt.bills[invoice["number"]] = _bill(tenant, invoice, theirs)
        for one in theirs:
            if one.cause != Cause.STORED:
                story.billed[one.subject].append((invoice["number"], one))
                story.billed_on[invoice["number"]].add(one.subject)
    # What the closing forgot is found by being on no bill that it tells of.
    for currency, theirs in lines.items():
        unknown = {"currency": currency, "net": 0, "tax": 0, "gross": 0}
        story.rebuilt.bills[f"{tenant} {told['month']} {currency}"] = _bill(tenant, unknown, theirs)


def _tell_credit(story: _Story, act: Act) -> None:
    number = act.subject_id
    found = []
    for lease in story.billed_on[act.detail["corrects"]]:
        for of, line in _credits(story, lease):
            if of == act.detail["corrects"]:
                found.append(line)
                key = (of, line.subject, line.starts_at)
                before = story.credited.get(key, Owed(0, Decimal(0)))
                story.credited[key] = Owed(before.seconds + line.seconds, before.amount + line.amount)
    story.rebuilt.bills[number] = _bill(act.tenant or "", act.detail, found)


def _stored(
    story: _Story, tenant: str, zone: str, *, until: datetime, now: datetime
) -> Iterator[tuple[str, Line]]:
    """What was kept until the month's end and is on no bill, with its currency."""
    for kept in story.kept.values():
        pieces = kept.due(story.prices, zone, now=now) if kept.tenant == tenant else ()
        for starts_at, ends_at, rate, currency in pieces:
            if ends_at is None or ends_at > until or (str(kept.pk), starts_at) in story.stored:
                continue
            seconds = whole_seconds(starts_at, ends_at)
            amount = line_amount(seconds=seconds, rate_per_hour=rate, currency=currency)
            line = Line(str(kept.pk), starts_at, ends_at, seconds, rate, amount, Cause.STORED, "", "")
            yield currency, line


def _bill(tenant: str, told: dict[str, Any], lines: list[Line]) -> Bill:
    net, tax, gross = (Decimal(told[name]) for name in ("net", "tax", "gross"))
    return Bill(tenant, told["currency"], net, tax, gross, lines)


def _credits(story: _Story, lease: str) -> list[tuple[str, Line]]:
    """What is not due any more of the lines of a lease, with the number of their invoice."""
    found = []
    now_due = _due(story, lease) if story.billed[lease] else []
    currency = story.bookings[lease].currency
    for number, line in story.billed[lease]:
        if line.cause != Cause.USE:
            continue
        before = story.credited.get((number, lease, line.starts_at), Owed(0, Decimal(0)))
        credit = credit_for(
            Owed(line.seconds + before.seconds, line.amount + before.amount),
            seconds_due=billed_seconds_within(now_due, Span(line.starts_at, line.ends_at)),
            rate_per_hour=line.rate_per_hour,
            currency=currency,
        )
        if credit is not None:
            found.append((number, line._replace(seconds=credit.seconds, amount=credit.amount)))
    return found


def _due(story: _Story, lease: str) -> list[Due]:
    one = story.bookings[lease]
    if one.active_at is None:
        return []
    used = billable_span(
        active_at=one.active_at,
        stopped_at=one.stopped_at or one.ends_at,
        starts_at=one.starts_at,
        ends_at=one.ends_at,
    )
    lines = due(one.terms, used, _outages(story, lease, one), one.handed_over)
    if one.gone_at is not None:
        over = overrun_span(active_at=one.active_at, gone_at=one.gone_at, ends_at=one.ends_at)
        if over is not None:
            parts = cut_span(over, month_cuts(*over, story.zones[lease]))
            lines += [Due(*part, Decimal(0), Cause.OVERRUN) for part in parts]
    return lines


def _outages(story: _Story, lease: str, booking: Booking) -> Iterable[Span]:
    gpus = story.gpus[lease]
    return [one.span for one in story.outages.values() if one.gpus & gpus or one.model == booking.model]


def _line(story: _Story, lease: str, line: Due) -> Line:
    booking, seconds = story.bookings[lease], whole_seconds(line.starts_at, line.ends_at)
    amount = line_amount(seconds=seconds, rate_per_hour=line.rate_per_hour, currency=booking.currency)
    span = (line.starts_at, line.ends_at)
    tags = (booking.project, booking.cost_centre)
    return Line(lease, *span, seconds, line.rate_per_hour, amount, line.cause, *tags)


_TELL = {
    "lease": _tell_lease,
    "gpu": _tell_gpu,
    "outage": _tell_outage,
    "home": _tell_kept,
    "snapshot": _tell_kept,
    "storage-rate": _tell_storage_rate,
    "month": _tell_month,
    "invoice": _tell_credit,
}
