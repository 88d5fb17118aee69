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

from leasing.models import Lease, UsageSegment
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


def billed_until(segment: UsageSegment, now: datetime) -> datetime:
    """The end of a segment; an open one counts up to `now` or the end of its lease."""
    return segment.ends_at or max(segment.starts_at, min(now, segment.lease.ends_at))


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


def _open_use(lease: Lease, active_at: datetime) -> None:
    """A machine that is ready early gets its segment at once, but dated at the start of the lease."""
    starts_at = max(active_at, lease.starts_at)
    if starts_at < lease.ends_at:
        UsageSegment.objects.create(
            lease=lease, starts_at=starts_at, rate_per_hour=lease.rate_per_hour, currency=lease.currency
        )


def _close_use(lease: Lease, stopped_at: datetime) -> None:
    """A segment whose time had not come when the lease stopped covers nothing, and is withdrawn."""
    still_open = lease.segments.filter(ends_at=None)
    ends_at = min(stopped_at, lease.ends_at)
    still_open.filter(starts_at__gte=ends_at).delete()
    still_open.update(ends_at=ends_at)


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
