"""When can I have it, and for how long: answered from the openings, exactly, with the price.

A lease needs GPUs for its hold, which begins a lead before it (but never before now) and lasts a turnaround
beyond it. What it is to have beside them (`extras`) only some hosts have, and not at every time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from leasing.availability.sweep import lease_span, longest
from leasing.extras import PLAIN, Extras, meeting
from leasing.holds import pool_of, window
from leasing.models import Flavor, Person, Tenant
from leasing.obstacles import InTheWay, in_the_way
from leasing.openings.search import Pool, first_start, is_open, latest_end, longest_open
from leasing.openings.spans import FOREVER, MICROSECOND, Span, first_beside, micros, moment
from leasing.openings.upkeep import span_of
from leasing.pricing import Quote, quote_lease, rate_of
from leasing.reasons import NONE, Reason, because
from leasing.timing import LONGEST_LEASE, SHORTEST_LEASE

# Alternatives are at least so far apart, or as far as the lease is long.
CLOSEST = timedelta(hours=1)
FARTHEST = timedelta(days=1)
LATER, OTHERS = 3, 4


@dataclass(frozen=True)
class Slot:
    """A window that is free, and what it costs."""

    starts_at: datetime
    ends_at: datetime
    quote: Quote


@dataclass(frozen=True)
class NearMisses:
    """What stands in the way when nothing fits, and what nearly fits; nothing where that does not help.

    `plain` is what was asked for, but without the extras. `shorter` begins as asked, `later` ignores the
    deadline, `others` are other flavors that can be had by it, or else before `later`, smaller ones of the
    same model first.
    """

    obstacles: InTheWay
    plain: Slot | None
    shorter: Slot | None
    later: list[Slot]
    others: list[tuple[Flavor, Slot]]


def find_start(
    flavor: Flavor,
    duration: timedelta,
    *,
    earliest: datetime | None = None,
    deadline: datetime | None = None,
    extras: Extras = PLAIN,
    now: datetime,
) -> datetime | None:
    """The first start, not before `earliest` (now if None), of a lease that ends by the deadline."""
    asked, pool = max(earliest or now, now), pool_of(flavor, extras)
    taken = [one.span for one in extras.taken(flavor, now=now)]
    while True:
        asked = _first_beside(taken, asked, duration)
        start = _first_start(flavor, pool, asked, duration, now=now)
        if start is None or (deadline is not None and start + duration > deadline):
            return None
        asked = _first_beside(taken, start, duration)
        if asked == start:
            return start


def _first_beside(taken: Sequence[Span], start: datetime, duration: timedelta) -> datetime:
    return moment(first_beside(taken, micros(start), duration // MICROSECOND)) if taken else start


def _first_start(
    flavor: Flavor, pool: Pool, asked: datetime, duration: timedelta, *, now: datetime
) -> datetime | None:
    """By the GPUs alone."""
    held = span_of(*window(flavor, asked, asked + duration, now=now))
    length = (_lead(flavor) + duration + _turnaround(flavor)) // MICROSECOND
    begins = first_start(pool, *held, length=length)
    if begins is None:
        return None
    return asked if begins == held.starts else moment(begins) + _lead(flavor)


def is_free(
    flavor: Flavor,
    starts_at: datetime,
    ends_at: datetime,
    *,
    extras: Extras = PLAIN,
    now: datetime,
) -> bool:
    """Whether a lease could be placed in this window."""
    held = span_of(*window(flavor, starts_at, ends_at, now=now))
    if held.starts >= held.ends or extras.lacking(flavor, starts_at, ends_at, now=now):
        return False
    return is_open(pool_of(flavor, extras), *held)


def extras_lack(
    flavor: Flavor, starts_at: datetime, ends_at: datetime, *, extras: Extras, now: datetime
) -> Reason:
    """Why it cannot be had with the extras, though it could be without; no reason if that is not so."""
    if not extras or not is_free(flavor, starts_at, ends_at, now=now):
        return NONE
    if lacking := extras.lacking(flavor, starts_at, ends_at, now=now):
        return lacking
    is_there = is_free(flavor, starts_at, ends_at, extras=extras, now=now)
    return NONE if is_there else because(f"{extras.scarcest}-elsewhere")


def find_slots(
    flavor: Flavor,
    duration: timedelta,
    *,
    earliest: datetime | None = None,
    deadline: datetime | None = None,
    count: int = 1,
    tenant: Tenant | None = None,
    extras: Extras = PLAIN,
    now: datetime,
) -> list[Slot]:
    """The first slot and the next alternatives, each a good while after the one before."""
    found = _slots(
        flavor,
        duration,
        earliest=earliest,
        deadline=deadline,
        count=count,
        tenant=tenant,
        extras=extras,
        now=now,
    )
    return list(found)


def longest_end(
    flavor: Flavor, starts_at: datetime, *, until: datetime, extras: Extras = PLAIN, now: datetime
) -> datetime | None:
    """The latest end, at most `until`, of a lease that starts then; None if it cannot start then at all."""
    for one in meeting(extras.taken(flavor, now=now), starts_at, until):
        until = min(until, one.starts_at)
    if until - starts_at < SHORTEST_LEASE:
        return None
    begins, _ends = window(flavor, starts_at, until, now=now)
    free_until = latest_end(pool_of(flavor, extras), micros(begins))
    if free_until is None:
        return None
    ends_at = until if free_until == FOREVER else min(until, moment(free_until) - _turnaround(flavor))
    return ends_at if ends_at - starts_at >= SHORTEST_LEASE else None


def free_until(
    flavor: Flavor,
    starts_at: datetime,
    *,
    deadline: datetime | None = None,
    extras: Extras = PLAIN,
    now: datetime,
) -> datetime | None:
    """The latest end of a lease that starts then, by the deadline and within a year; None if none can."""
    longest = starts_at + LONGEST_LEASE
    return longest_end(flavor, starts_at, until=min(deadline or longest, longest), extras=extras, now=now)


def bookable(
    flavor: Flavor, since: datetime, until: datetime, *, extras: Extras = PLAIN, now: datetime
) -> list[Span]:
    """The windows in `[since, until)` that leases of the flavor could have, none within another, by start.

    A lease can be had if one of them contains it. What goes on after `until` is cut there.
    """
    lead, turnaround = _lead(flavor), _turnaround(flavor)
    begins = max(since - lead, now)
    if begins >= until:
        return []
    found = longest_open(pool_of(flavor, extras), micros(begins), micros(until + turnaround))
    taken = sorted(one.span for one in extras.taken(flavor, now=now))
    leases = (lease_span(*one, lead=lead, turnaround=turnaround, now=now) for one in found)
    beside = (part for one in leases for part in _beside(one, taken))
    long_enough = [one for one in beside if one.ends - one.starts >= SHORTEST_LEASE // MICROSECOND]
    cut = (Span(one.starts, min(one.ends, micros(until))) for one in long_enough)
    return [one for one in longest(cut) if one.starts < one.ends]


def near_misses(
    flavor: Flavor,
    duration: timedelta,
    *,
    person: Person,
    tenant: Tenant | None = None,
    earliest: datetime | None = None,
    deadline: datetime | None = None,
    extras: Extras = PLAIN,
    now: datetime,
) -> NearMisses:
    """What to tell and to offer to somebody whom nothing fits."""
    asked = max(earliest or now, now)
    ends_at = asked + duration
    later = find_slots(flavor, duration, earliest=asked, count=LATER, tenant=tenant, extras=extras, now=now)
    sooner = None if deadline is not None or not later else later[0].starts_at
    others = _others(
        flavor,
        duration,
        earliest=asked,
        deadline=deadline,
        before=sooner,
        tenant=tenant,
        extras=extras,
        now=now,
    )
    too_late = deadline is not None and ends_at > deadline
    lacking = NONE if too_late else extras_lack(flavor, asked, ends_at, extras=extras, now=now)
    return NearMisses(
        obstacles=InTheWay([because("deadline-too-early")], [])
        if too_late
        else obstacles(flavor, asked, ends_at, person=person, extras=extras, now=now),
        plain=_slot(flavor, asked, ends_at, tenant, now) if lacking else None,
        shorter=shorter_slot(
            flavor, asked, min(ends_at, deadline or ends_at), tenant=tenant, extras=extras, now=now
        ),
        later=later,
        others=list(islice(others, OTHERS)),
    )


def obstacles(
    flavor: Flavor, starts_at: datetime, ends_at: datetime, *, person: Person, extras: Extras, now: datetime
) -> InTheWay:
    """Why this window cannot be had: the extras, if it could be without them, or else the GPUs."""
    lacking = extras_lack(flavor, starts_at, ends_at, extras=extras, now=now)
    if lacking:
        return InTheWay([lacking], [])
    return in_the_way(flavor, starts_at, ends_at, person=person, extras=extras, now=now)


def shorter_slot(
    flavor: Flavor,
    starts_at: datetime,
    until: datetime,
    *,
    tenant: Tenant | None = None,
    extras: Extras = PLAIN,
    now: datetime,
) -> Slot | None:
    """From this start as long as it is free, `until` at most."""
    ends_at = longest_end(flavor, starts_at, until=until, extras=extras, now=now)
    return None if ends_at is None else _slot(flavor, starts_at, ends_at, tenant, now)


def _slots(
    flavor: Flavor,
    duration: timedelta,
    *,
    earliest: datetime | None,
    deadline: datetime | None,
    count: int,
    tenant: Tenant | None,
    extras: Extras,
    now: datetime,
) -> Iterator[Slot]:
    apart = min(max(duration, CLOSEST), FARTHEST)
    for _ in range(count):
        start = find_start(flavor, duration, earliest=earliest, deadline=deadline, extras=extras, now=now)
        if start is None:
            return
        yield _slot(flavor, start, start + duration, tenant, now)
        earliest = start + apart


def _others(
    flavor: Flavor,
    duration: timedelta,
    *,
    earliest: datetime,
    deadline: datetime | None,
    before: datetime | None,
    tenant: Tenant | None,
    extras: Extras,
    now: datetime,
) -> Iterator[tuple[Flavor, Slot]]:
    """Those that can be had `before` a time: what is to be had later than the wanted one is no help."""
    offered = Flavor.objects.filter(offered=True).exclude(pk=flavor.pk).select_related("model")
    smaller_first = sorted(
        offered, key=lambda other: (other.model_id != flavor.model_id, -other.gpu_count, other.name)
    )
    for other in smaller_first:
        if other.model_id == flavor.model_id and other.gpu_count >= flavor.gpu_count:
            continue
        start = find_start(other, duration, earliest=earliest, deadline=deadline, extras=extras, now=now)
        if start is None or (before is not None and start >= before):
            continue
        if rate_of(other, at=start) is not None:
            yield other, _slot(other, start, start + duration, tenant, now)


def _slot(
    flavor: Flavor, starts_at: datetime, ends_at: datetime, tenant: Tenant | None, now: datetime
) -> Slot:
    quote = quote_lease(flavor=flavor, tenant=tenant, starts_at=starts_at, ends_at=ends_at, now=now)
    return Slot(starts_at, ends_at, quote)


def _beside(span: Span, taken: Sequence[Span]) -> Iterator[Span]:
    """The parts of a span that none of the others, by start, overlaps."""
    starts = span.starts
    for other in taken:
        if other.ends > starts and other.starts < span.ends:
            yield Span(starts, other.starts)
            starts = other.ends
    yield Span(starts, span.ends)


def _lead(flavor: Flavor) -> timedelta:
    return timedelta(seconds=flavor.model.lead_seconds)


def _turnaround(flavor: Flavor) -> timedelta:
    return timedelta(seconds=flavor.model.turnaround_seconds)
