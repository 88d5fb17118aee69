"""Repeated bookings: looked at first, then booked whole, or without the dates that the person named.

Nothing is lost silently: a date that cannot be had and was not named makes the whole booking fail, and is
named. Limits count all of it together: one lease beyond them, and all wait for an approver.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from leasing import holds, notices, offering, policy, quotas
from leasing.actors import Actor
from leasing.addresses import of_approvals
from leasing.audit.log import record
from leasing.booking import check_offered, decide_by, fill_quote, member_of, record_request, starts_now
from leasing.errors import InvalidRequest, NothingFree
from leasing.locking import lock_tenant_and_person
from leasing.models import Flavor, Image, Lease, Person, Series, Tenant
from leasing.obstacles import InTheWay, in_the_way
from leasing.pricing import Quote, quote_lease
from leasing.reasons import NONE, Reason, because, filled
from leasing.recurrence import (
    DAY,
    Occurrence,
    Pattern,
    check_between,
    check_pattern,
    moment_of,
    zone_named,
)
from leasing.retrying import retrying
from leasing.slots import Slot, find_start, is_free, shorter_slot
from leasing.states.lease import LeaseState
from leasing.timing import PAST_TOLERANCE
from leasing.wake import wake_control

# What would be free instead is looked up for so many dates that are not.
MOST_EXPLAINED = 31


class DatesLost(NothingFree):
    """Dates that cannot be had and that the person did not name; nothing was booked."""

    code = "dates-lost"

    def __init__(self, days: list[date]) -> None:
        named = ", ".join(date_format(day, "DATE_FORMAT") for day in days)
        super().__init__(
            _("Nothing was booked, because these dates cannot be had: %(days)s.") % {"days": named},
            hint=_("Leave them out, or choose another time."),
        )
        self.days = days


@dataclass(frozen=True)
class Planned:
    """One date of a series: its window and price and, if it cannot be had, why and what is free instead."""

    occurrence: Occurrence
    quote: Quote
    left_out: bool
    lost: InTheWay | None = None
    instead: tuple[Slot, ...] = ()

    @property
    def is_booked(self) -> bool:
        return not self.left_out and self.lost is None


@dataclass(frozen=True)
class Plan:
    """What booking a series would do now."""

    planned: list[Planned]
    approval_because: Reason

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
    now: datetime,
) -> Plan:
    """Every date with its price, and whether it can be had. Changes nothing. Raises as `book_series` does."""
    person = member_of(actor, tenant)
    planned = list(_planned(person, flavor, pattern, frozenset(without), now))
    leases = [
        Lease(tenant=tenant, owner=person, flavor=flavor, **_window(one.occurrence, now))
        for one in planned
        if one.is_booked
    ]
    return Plan(planned, quotas.together_beyond(_judged(leases, now=now)))


def book_series(
    *,
    actor: Actor,
    tenant: Tenant,
    flavor: Flavor,
    image: Image,
    pattern: Pattern,
    without: Collection[date] = (),
    purpose: str = "",
    now: datetime,
) -> Series:
    """Book every date of the pattern but those in `without`, or nothing.

    Raises DatesLost for dates that cannot be had, InvalidRequest, or NotVisible.
    """
    person = member_of(actor, tenant)
    check_offered(flavor, image)
    left_out = frozenset(without)
    wanted = [one for one in _windows(flavor, pattern, left_out, now) if one.day not in left_out]
    if not wanted:
        raise InvalidRequest(_("Every date is left out."), hint=_("Keep at least one."), field="without")
    series = Series(
        tenant=tenant,
        owner=person,
        flavor=flavor,
        image=image,
        purpose=purpose,
        weekdays="".join(map(str, sorted(pattern.weekdays))),
        starts=pattern.starts,
        ends=pattern.ends,
        zone=pattern.zone,
        first_on=pattern.first_on,
        last_on=pattern.last_on,
        every_weeks=pattern.every_weeks,
        left_out=sorted(map(date.isoformat, left_out)),
        requested_at=now,
    )
    return retrying(lambda: _book(actor, series, wanted, now))


def _windows(flavor: Flavor, pattern: Pattern, without: frozenset[date], now: datetime) -> list[Occurrence]:
    found = check_pattern(pattern, now=now)
    model = flavor.model
    check_between(found, timedelta(seconds=model.lead_seconds + model.turnaround_seconds))
    if unknown := without - {one.day for one in found}:
        raise InvalidRequest(
            _("%(day)s is not a date of this series.") % {"day": min(unknown).isoformat()}, field="without"
        )
    return found


def _planned(
    person: Person, flavor: Flavor, pattern: Pattern, without: frozenset[date], now: datetime
) -> Iterator[Planned]:
    explained = 0
    for one in _windows(flavor, pattern, without, now):
        quote = quote_lease(flavor=flavor, **_window(one, now))
        left_out = one.day in without
        if left_out:
            yield Planned(one, quote, left_out)
            continue
        reason = _impossible(one, now=now)
        window = _window(one, now)
        if reason:
            yield Planned(one, quote, left_out, InTheWay([reason], []))
        elif is_free(flavor, **window, now=now):
            yield Planned(one, quote, left_out)
        elif explained < MOST_EXPLAINED:
            explained += 1
            lost = in_the_way(flavor, **window, person=person, now=now)
            yield Planned(one, quote, left_out, lost, tuple(_instead(flavor, pattern, one, now)))
        else:
            yield Planned(one, quote, left_out, InTheWay([], []))


def _impossible(occurrence: Occurrence, *, now: datetime) -> Reason:
    """Why nobody can have the window, whatever is free."""
    if not occurrence.has_time:
        return because("no-time-that-day")
    return because("start-is-over") if occurrence.starts_at < now - PAST_TOLERANCE else NONE


def _instead(flavor: Flavor, pattern: Pattern, occurrence: Occurrence, now: datetime) -> Iterator[Slot]:
    """What would be free on that day: for a shorter time, and at another one."""
    starts_at, ends_at = _window(occurrence, now).values()
    shorter = shorter_slot(flavor, starts_at, ends_at, now=now)
    if shorter is not None:
        yield shorter
    zone = zone_named(pattern.zone)
    begin, end = (moment_of(day, pattern.starts.min, zone) for day in (occurrence.day, occurrence.day + DAY))
    start = find_start(flavor, ends_at - starts_at, earliest=max(begin, now), now=now)
    if start is not None and start < end:
        until = start + (ends_at - starts_at)
        yield Slot(start, until, quote_lease(flavor=flavor, starts_at=start, ends_at=until))


def _window(occurrence: Occurrence, now: datetime) -> dict[str, datetime]:
    """One for now begins now."""
    begun = now - PAST_TOLERANCE <= occurrence.starts_at < now < occurrence.ends_at
    return {"starts_at": now if begun else occurrence.starts_at, "ends_at": occurrence.ends_at}


def _book(actor: Actor, series: Series, wanted: list[Occurrence], now: datetime) -> Series:
    with transaction.atomic():
        series.tenant = lock_tenant_and_person(series.tenant_id, series.owner_id)
        series.save(force_insert=True)
        possible = [one for one in wanted if not _impossible(one, now=now)]
        leases = [_lease(series, one, now=now) for one in possible]
        verdicts = _judged(leases, now=now)
        reason = quotas.together_beyond(verdicts)
        _settle(leases, reason, now=now)
        Lease.objects.bulk_create(leases)
        lost = {one.day for one in wanted} - {one.day for one in possible}
        held = _place(series.flavor, leases, now=now)
        lost |= {lease.occurs_on for lease in leases if lease.occurs_on and lease.pk not in held}
        if lost:
            raise DatesLost(sorted(lost))
        for lease, verdict in zip(leases, verdicts, strict=True):
            record_request(lease, verdict, held[lease.pk], actor=actor, now=now)
        _record(series, leases, reason, actor=actor, now=now)
        if reason:
            _ask_approvers(series, leases, now=now)
        if starts_now(leases[0], now=now):
            transaction.on_commit(wake_control)
    return series


def _lease(series: Series, occurrence: Occurrence, *, now: datetime) -> Lease:
    return Lease(
        tenant=series.tenant,
        owner=series.owner,
        flavor=series.flavor,
        image=series.image,
        purpose=series.purpose,
        series=series,
        occurs_on=occurrence.day,
        requested_at=now,
        state_since=now,
        **_window(occurrence, now),
    )


def _judged(leases: list[Lease], *, now: datetime) -> list[quotas.Verdict]:
    """Each at the price of its start, given those before it."""
    if not leases:
        return []
    for lease in leases:
        fill_quote(lease)
    account = quotas.account_of(
        tenant=leases[0].tenant,
        person=leases[0].owner,
        starts_at=leases[0].starts_at,
        ends_at=leases[-1].ends_at,
        now=now,
    )
    return account.judge_all(map(quotas.use_of, leases))


def _settle(leases: list[Lease], reason: Reason, *, now: datetime) -> None:
    for lease in leases:
        lease.needs_approval_because = reason
        lease.state = LeaseState.REQUESTED if reason else LeaseState.SCHEDULED
        lease.decide_by = decide_by(lease, now) if reason else None


def _place(flavor: Flavor, leases: list[Lease], *, now: datetime) -> dict[UUID, list[UUID]]:
    """Hold GPUs for each; those of each lease for which there are some."""
    holds.lock_blocks_for(flavor, [(lease.starts_at, lease.ends_at) for lease in leases], now=now)
    held = {}
    for lease in leases:
        with suppress(NothingFree), transaction.atomic():
            held[lease.pk] = offering.place_after_line(lease, now=now)
    return held


def _record(series: Series, leases: list[Lease], reason: Reason, *, actor: Actor, now: datetime) -> None:
    record(
        action="series.request",
        actor=actor,
        subject=f"series:{series.pk}",
        tenant=series.tenant,
        now=now,
        flavor=series.flavor.slug,
        image=series.image.slug,
        weekdays=series.weekdays,
        starts=series.starts,
        ends=series.ends,
        zone=series.zone,
        first_on=series.first_on,
        last_on=series.last_on,
        every_weeks=series.every_weeks,
        left_out=series.left_out,
        leases=[str(lease.pk) for lease in leases],
        needs_approval_because=reason.in_english(),
    )


def _ask_approvers(series: Series, leases: list[Lease], *, now: datetime) -> None:
    """Once, however many leases there are."""
    for approver in policy.people_with_role(series.tenant, "approver").exclude(pk=series.owner_id):
        notices.notify(
            recipient=approver,
            kind="series-request",
            subject=filled(
                gettext_lazy("%(person)s asks for %(flavor)s, %(count)d times"),
                person=series.owner,
                flavor=series.flavor.name,
                count=len(leases),
            ),
            body=filled(
                gettext_lazy("%(purpose)s\n\n%(pattern)s, for %(tenant)s"),
                purpose=series.purpose or gettext_lazy("No purpose was given."),
                pattern=series.pattern,
                tenant=series.tenant.name,
            ),
            now=now,
            link=of_approvals(),
        )
