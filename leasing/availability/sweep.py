"""Time of one GPU and of one host, painted: pure arithmetic on spans of microseconds since 1970.

Whatever lies beneath something else does not show: an anonymous stretch has no seams, so that nobody can tell
where one stranger's lease ends and the next one's begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from leasing.openings.spans import FOREVER, MICROSECOND, Span, gaps, micros, openings
from leasing.timing import SHORTEST_LEASE


class Kind(StrEnum):
    """What a GPU does in a stretch. The first three belong to a lease that the reader may see."""

    LEASE = "lease"
    LEAD = "lead"
    TURNAROUND = "turnaround"
    CLOSED = "closed"
    OUT = "out-of-service"
    BUSY = "busy"


@dataclass(frozen=True)
class Paint:
    """One layer: spans of one kind, of a lease where the reader may know which."""

    kind: Kind
    spans: Sequence[Span]
    lease_id: UUID | None = None


@dataclass(frozen=True)
class Stretch:
    """`[starts, ends)` of a GPU's time. What is in no stretch is free."""

    starts: int
    ends: int
    kind: Kind
    lease_id: UUID | None = None


def common(one: Iterable[Span], other: Iterable[Span]) -> list[Span]:
    """What is in both."""
    return gaps([*gaps(one), *gaps(other)])


def without(one: Iterable[Span], other: Iterable[Span]) -> list[Span]:
    """What is in the first alone."""
    return gaps([*gaps(one), *other])


def paint(layers: Iterable[Paint], within: Span) -> list[Stretch]:
    """The stretches of a window, by start. Of layers that overlap, the first one shows."""
    left, found = [within], []
    for layer in layers:
        found += [Stretch(*span, layer.kind, layer.lease_id) for span in common(left, layer.spans)]
        left = without(left, layer.spans)
    return sorted(found, key=lambda stretch: stretch.starts)


def lease_layers(lease_id: UUID, lease: Span, hold: Span) -> list[Paint]:
    """A hold, parted into what comes before its lease, the lease, and what comes after it."""
    return [
        Paint(Kind.LEASE, common([lease], [hold]), lease_id),
        Paint(Kind.LEAD, common([Span(0, lease.starts)], [hold]), lease_id),
        Paint(Kind.TURNAROUND, without([hold], [Span(0, lease.ends)]), lease_id),
    ]


def free_of(stretches: Iterable[Stretch], within: Span) -> list[Span]:
    """What no stretch covers."""
    return without([within], [Span(one.starts, one.ends) for one in stretches])


def leasable(
    groups: Iterable[Sequence[Sequence[Span]]],
    *,
    count: int,
    lead: timedelta,
    turnaround: timedelta,
    now: datetime,
) -> list[Span]:
    """When `count` GPUs of one group could be leased: the longest spans of leases, by start.

    A group has the free spans of each of its GPUs. A lease begins a lead after its GPUs come free, or now if
    they are free now, and ends a turnaround before they are taken.
    """
    found = set()
    for free in groups:
        for one in openings(free):
            if one.gpus >= count:
                span = lease_span(one.starts, one.ends, lead=lead, turnaround=turnaround, now=now)
                if span.ends - span.starts >= SHORTEST_LEASE // MICROSECOND:
                    found.add(span)
    return list(longest(found))


def lease_span(starts: int, ends: int, *, lead: timedelta, turnaround: timedelta, now: datetime) -> Span:
    """What a lease has of GPUs that are free in `[starts, ends)`; it may have no length, or less."""
    begins = micros(now) if starts <= micros(now) else starts + lead // MICROSECOND
    return Span(begins, ends if ends == FOREVER else ends - turnaround // MICROSECOND)


def longest(spans: Iterable[Span]) -> Iterator[Span]:
    """Those that lie in no other."""
    reached = 0
    for span in sorted(spans, key=lambda one: (one.starts, -one.ends)):
        if span.ends > reached:
            reached = span.ends
            yield span
