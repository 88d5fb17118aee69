"""What a lease is billed for: the rules, and the one function that turns committed transitions into segments.

A lease is billed while it is usable and inside its window: `[max(active, starts_at), min(stopped, ends_at))`.
Held time counts, switched off or not; provisioning and turnaround are free; what a machine runs beyond its
end is a zero-rated segment that says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from django.db.models import Q

from leasing.models import Extension, Lease, UsageSegment
from leasing.states.lease import LeaseEvent

SECOND = timedelta(seconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# ISO 4217 currencies without a minor unit; all others are taken to have hundredths.
WHOLE_CURRENCIES = frozenset(
    ["BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XPF"]
)


class Span(NamedTuple):
    """A half-open, non-empty span of time."""

    starts_at: datetime
    ends_at: datetime


def billable_span(
    *, active_at: datetime, stopped_at: datetime, starts_at: datetime, ends_at: datetime
) -> Span | None:
    """The billed time of a lease that was usable in `[active_at, stopped_at)`; None if there is none."""
    return _span(max(active_at, starts_at), min(stopped_at, ends_at))


def overrun_span(*, active_at: datetime, gone_at: datetime, ends_at: datetime) -> Span | None:
    """The time that a machine existed beyond the end of its lease; None if it did not."""
    return _span(max(active_at, ends_at), gone_at)


def whole_seconds(starts_at: datetime, ends_at: datetime) -> int:
    """Seconds between the whole seconds in which both moments lie, so that adjoining spans add up exactly."""
    return max(0, (ends_at - EPOCH) // SECOND - (starts_at - EPOCH) // SECOND)


def line_amount(*, seconds: int, rate_per_hour: Decimal, currency: str) -> Decimal:
    """Price of one line, rounded once, half to even, to the currency's minor unit."""
    unit = Decimal(1) if currency in WHOLE_CURRENCIES else Decimal("0.01")
    return (seconds * rate_per_hour / 3600).quantize(unit, ROUND_HALF_EVEN)


class Term(NamedTuple):
    """A span of a lease that was quoted at one rate."""

    starts_at: datetime
    ends_at: datetime
    rate_per_hour: Decimal


def terms(lease: Lease) -> list[Term]:
    """What a lease was quoted, span by span: each confirmed extension at the rate in force when it was asked.

    Neighbours of one rate are one term. What was cut off, before more was added, is not in it.
    """
    confirmed = lease.extensions.filter(state=Extension.State.CONFIRMED).order_by("asked_at", "id")
    last = datetime.max.replace(tzinfo=UTC)
    found = [Term(lease.starts_at, last, lease.rate_per_hour)]
    for extension in confirmed:
        cut = extension.old_ends_at
        found = [one._replace(ends_at=min(one.ends_at, cut)) for one in found if one.starts_at < cut]
        found.append(Term(cut, extension.new_ends_at, extension.rate_per_hour))
    return _merged([one._replace(ends_at=min(one.ends_at, lease.ends_at)) for one in found])


def quoted_total(lease: Lease) -> Decimal:
    """The price of all terms, should they be used in full."""
    amounts = (
        line_amount(
            seconds=whole_seconds(one.starts_at, one.ends_at),
            rate_per_hour=one.rate_per_hour,
            currency=lease.currency,
        )
        for one in terms(lease)
    )
    return sum(amounts, Decimal(0))


def used_terms(lease: Lease, span: Span) -> list[Term]:
    """The terms that a span of use falls into, cut to it."""
    cut = [
        Term(max(one.starts_at, span.starts_at), min(one.ends_at, span.ends_at), one.rate_per_hour)
        for one in terms(lease)
    ]
    return [one for one in cut if one.starts_at < one.ends_at]


def _merged(found: list[Term]) -> list[Term]:
    merged: list[Term] = []
    for one in found:
        if one.starts_at >= one.ends_at:
            continue
        if merged and merged[-1].rate_per_hour == one.rate_per_hour:
            merged[-1] = merged[-1]._replace(ends_at=one.ends_at)
        else:
            merged.append(one)
    return merged


def billed_until(segment: UsageSegment, now: datetime) -> datetime:
    """Up to where a segment counts: `now`, its end, or that of its lease while it is open."""
    return max(segment.starts_at, min(now, segment.ends_at or segment.lease.ends_at))


def billed_seconds(segment: UsageSegment, now: datetime) -> int:
    return whole_seconds(segment.starts_at, billed_until(segment, now))


def segment_amount(segment: UsageSegment, now: datetime) -> Decimal:
    """What a segment costs, an open one up to `now`."""
    return line_amount(
        seconds=billed_seconds(segment, now),
        rate_per_hour=segment.rate_per_hour,
        currency=segment.currency,
    )


def lease_amount(segments: Iterable[UsageSegment], now: datetime) -> Decimal:
    """Sum of the lines of one lease, which are all in its currency."""
    return sum((segment_amount(segment, now) for segment in segments), Decimal(0))


def follow_lease(lease: Lease, *, event: LeaseEvent, effective_at: datetime) -> None:
    """Open, close or add the segments that a transition of the lease calls for, in its transaction."""
    if event is LeaseEvent.RUNNING:
        _open_use(lease, effective_at)
    elif event in (LeaseEvent.END, LeaseEvent.FAIL, LeaseEvent.CANCEL):
        _close_use(lease, effective_at)
    elif event is LeaseEvent.GONE and lease.active_at is not None:
        _add_overrun(lease, lease.active_at, effective_at)


def follow_end(lease: Lease) -> None:
    """The end of a lease that is billed has changed: its segments follow its terms anew."""
    if lease.active_at is not None and lease.stopped_at is None:
        lease.segments.all().delete()
        _open_use(lease, lease.active_at)


def _open_use(lease: Lease, active_at: datetime) -> None:
    """A machine that is ready early gets its segment at once, but dated at the start of the lease.

    Each term has its segment, and the last one is open.
    """
    span = _span(max(active_at, lease.starts_at), lease.ends_at)
    due = used_terms(lease, span) if span else []
    for number, one in enumerate(due, 1):
        UsageSegment.objects.create(
            lease=lease,
            starts_at=one.starts_at,
            ends_at=one.ends_at if number < len(due) else None,
            rate_per_hour=one.rate_per_hour,
            currency=lease.currency,
        )


def _close_use(lease: Lease, stopped_at: datetime) -> None:
    """A segment whose time had not come when the lease stopped covers nothing, and is withdrawn."""
    ends_at = min(stopped_at, lease.ends_at)
    lease.segments.filter(starts_at__gte=ends_at).delete()
    lease.segments.filter(Q(ends_at=None) | Q(ends_at__gt=ends_at)).update(ends_at=ends_at)


def _add_overrun(lease: Lease, active_at: datetime, gone_at: datetime) -> None:
    if span := overrun_span(active_at=active_at, gone_at=gone_at, ends_at=lease.ends_at):
        UsageSegment.objects.create(
            lease=lease,
            starts_at=span.starts_at,
            ends_at=span.ends_at,
            rate_per_hour=Decimal(0),
            currency=lease.currency,
            cause=UsageSegment.Cause.OVERRUN,
        )


def _span(starts_at: datetime, ends_at: datetime) -> Span | None:
    return Span(starts_at, ends_at) if starts_at < ends_at else None
