"""What booking a series would do: each date with its price, what is in its way, what is free instead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from leasing import quotas
from leasing.actors import Actor
from leasing.booking import fill_quote, member_of
from leasing.errors import InvalidRequest
from leasing.extras import Extras, extras_of
from leasing.limits import Measure
from leasing.models import Flavor, Lease, Snapshot, Tenant
from leasing.obstacles import InTheWay
from leasing.pricing import Quote, quote_lease
from leasing.reasons import NONE, Reason, because
from leasing.recurrence import (
    DAY,
    Occurrence,
    Pattern,
    check_between,
    check_pattern,
    moment_of,
    zone_named,
)
from leasing.slots import Slot, find_start, is_free, obstacles, shorter_slot
from leasing.timing import PAST_TOLERANCE, SHORTEST_LEASE

# What would be free instead is looked up for so many dates that are not.
MOST_EXPLAINED = 31


@dataclass(frozen=True)
class Planned:
    """One date of a series: its window and price and, if it cannot be had, why and what is free instead."""

    occurrence: Occurrence
    quote: Quote
    left_out: bool = False
    lost: InTheWay | None = None
    instead: tuple[Slot, ...] = ()

    @property
    def is_booked(self) -> bool:
        return not self.left_out and self.lost is None

    @property
    def obstacles(self) -> list[Reason]:
        return self.lost.reasons if self.lost else []


@dataclass(frozen=True)
class Plan:
    """What booking a series would do now: to each limit too, all dates together."""

    planned: list[Planned]
    approval_because: Reason
    measures: list[Measure]

    @property
    def booked(self) -> list[Planned]:
        return [one for one in self.planned if one.is_booked]

    @property
    def lost(self) -> list[Planned]:
        return [one for one in self.planned if one.lost is not None and not one.left_out]

    @property
    def totals(self) -> dict[str, Decimal]:
        """The price of all that is booked, by currency."""
        found: dict[str, Decimal] = defaultdict(Decimal)
        for one in self.booked:
            found[one.quote.currency] += one.quote.total
        return dict(found)


def preview_series(
    *,
    actor: Actor,
    tenant: Tenant,
    flavor: Flavor,
    pattern: Pattern,
    without: Collection[date] = (),
    with_home: bool = False,
    snapshot: Snapshot | None = None,
    now: datetime,
) -> Plan:
    """Every date with its price, and whether it can be had. Changes nothing. Raises as `book_series` does."""
    person = member_of(actor, tenant)
    alike = {
        "tenant": tenant,
        "owner": person,
        "flavor": flavor,
        "with_home": with_home,
        "snapshot": snapshot,
    }
    planned = list(_planned(alike, pattern, frozenset(without), now))
    leases = [Lease(**alike, **window_of(one.occurrence, now)) for one in planned if one.is_booked]
    quotes = [one.quote for one in planned if one.is_booked]
    verdicts = judged(leases, quotes, now=now)
    return Plan(planned, quotas.together_beyond(verdicts), quotas.measured_together(verdicts))


def windows(flavor: Flavor, pattern: Pattern, without: frozenset[date], now: datetime) -> list[Occurrence]:
    """Every window of a pattern. Raises InvalidRequest for what cannot be asked for."""
    found = check_pattern(pattern, now=now)
    model = flavor.model
    check_between(found, timedelta(seconds=model.lead_seconds + model.turnaround_seconds))
    if unknown := without - {one.day for one in found}:
        raise InvalidRequest(
            _("%(day)s is not a date of this series.") % {"day": min(unknown).isoformat()}, field="without"
        )
    return found


def _planned(
    alike: dict[str, Any], pattern: Pattern, without: frozenset[date], now: datetime
) -> Iterator[Planned]:
    """`alike` is what the leases of all dates have."""
    explained, extras = 0, extras_of(Lease(**alike))
    for one in windows(alike["flavor"], pattern, without, now):
        lease = Lease(**alike, **window_of(one, now))
        quote = _quote(lease, now=now)
        if one.day in without:
            yield Planned(one, quote, left_out=True)
        elif reason := impossible(one, now=now):
            yield Planned(one, quote, lost=InTheWay([reason], []))
        elif is_free(lease.flavor, lease.starts_at, lease.ends_at, extras=extras, now=now):
            yield Planned(one, quote)
        elif explained < MOST_EXPLAINED:
            explained += 1
            window = lease.starts_at, lease.ends_at
            lost = obstacles(lease.flavor, *window, person=lease.owner, extras=extras, now=now)
            yield Planned(one, quote, lost=lost, instead=tuple(_instead(lease, extras, pattern, one, now)))
        else:
            yield Planned(one, quote, lost=InTheWay([], []))


def _quote(lease: Lease, *, now: datetime) -> Quote:
    return quote_lease(
        flavor=lease.flavor, tenant=lease.tenant, starts_at=lease.starts_at, ends_at=lease.ends_at, now=now
    )


def impossible(occurrence: Occurrence, *, now: datetime) -> Reason:
    """Why nobody can have the window, whatever is free."""
    if not occurrence.has_time:
        return because("no-time-that-day")
    over = occurrence.starts_at < now - PAST_TOLERANCE or occurrence.ends_at < now + SHORTEST_LEASE
    return because("start-is-over") if over else NONE


def _instead(
    lease: Lease, extras: Extras, pattern: Pattern, occurrence: Occurrence, now: datetime
) -> Iterator[Slot]:
    """What would be free on that day: for a shorter time, and at another one."""
    flavor, tenant, length = lease.flavor, lease.tenant, lease.ends_at - lease.starts_at
    shorter = shorter_slot(flavor, lease.starts_at, lease.ends_at, tenant=tenant, extras=extras, now=now)
    if shorter is not None:
        yield shorter
    zone = zone_named(pattern.zone)
    begin, end = (moment_of(day, pattern.starts.min, zone) for day in (occurrence.day, occurrence.day + DAY))
    start = find_start(flavor, length, earliest=max(begin, now), extras=extras, now=now)
    if start is not None and start < end:
        until = start + length
        quote = quote_lease(flavor=flavor, tenant=tenant, starts_at=start, ends_at=until, now=now)
        yield Slot(start, until, quote)


def window_of(occurrence: Occurrence, now: datetime) -> dict[str, datetime]:
    """One for now begins now."""
    begun = occurrence.starts_at < now and not impossible(occurrence, now=now)
    return {"starts_at": now if begun else occurrence.starts_at, "ends_at": occurrence.ends_at}


def priced(leases: list[Lease], *, now: datetime) -> list[Quote]:
    """The price of each, frozen into it."""
    return [fill_quote(lease, now=now) for lease in leases]


def judged(leases: list[Lease], quotes: list[Quote], *, now: datetime) -> list[quotas.Verdict]:
    """Each at its price, given those before it."""
    if not leases:
        return []
    account = quotas.account_around(leases, now=now)
    asked = zip(leases, quotes, strict=True)
    return account.judge_all(quotas.use_of(lease, quote.terms, quote.currency) for lease, quote in asked)
