"""What the book page says before the button is pressed: the price, and what follows from the choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from leasing.actors import Actor
from leasing.booking import judge_booking, quote_lease
from leasing.errors import DomainError
from leasing.extras import Extras
from leasing.limits import Measure, check_window
from leasing.models import Flavor, Tenant
from leasing.obstacles import InTheWay
from leasing.pricing import Quote
from leasing.quotas import Verdict
from leasing.recurrence import Pattern
from leasing.series_plan import Plan, Planned, preview_series
from leasing.slots import LATER, NearMisses, Slot, find_slots, free_until, is_free, near_misses
from leasing.timing import FARTHEST_START, LONGEST_LEASE, SHORTEST_LEASE
from portal.pages.booking_form import EXTRAS, UNTIL, BookingForm, add_domain_error
from portal.pages.calendar_windows import MINUTE, next_whole_minute, sayable, whole_minute
from portal.pages.waitlist import deadline_for

MOST_MEASURES = 8


@dataclass(frozen=True)
class Proposal:
    """What could be had instead, how it differs, and the address of this page with it filled in."""

    how: str | Promise
    other: Flavor | None
    slot: Slot
    address: str


@dataclass(frozen=True)
class Instead:
    """Why it is not free, what nearly is, and by when it might come free for somebody who waits.

    What was looked for and not found is told without a time, `ends_by` the one that was asked for.
    """

    obstacles: InTheWay
    proposals: list[Proposal]
    deadline: str
    looked_for: bool
    ends_by: datetime | None


@dataclass(frozen=True)
class Longest:
    """Until when it is free, and the address of this page with that end, if it is a later one.

    None: for as long as any workstation may last.
    """

    until: datetime | None
    address: str = ""


@dataclass(frozen=True)
class Offer:
    """What the page says before the button is pressed; `instead` when it cannot be had.

    The verdict says what it does to each limit, and why somebody would have to agree. Of what was found as
    soon as possible, `found` is its start for the form, and `alternatives` are the next times. `longest` says
    how long what begins at a chosen time could last, if that is asked for; `ask_longest` is the address of
    this page that asks.
    """

    quote: Quote
    starts_at: datetime
    ends_at: datetime
    tenant: Tenant
    verdict: Verdict
    instead: Instead | None
    found: str
    alternatives: list[Proposal]
    longest: Longest | None
    ask_longest: str


@dataclass(frozen=True)
class LostDate:
    """A date of a repeated booking that cannot be had, and addresses of what is free on it."""

    planned: Planned
    proposals: list[Proposal]


@dataclass(frozen=True)
class RepeatedOffer:
    """The same for a repeated booking. `without` names the dates that cannot be had, for the button."""

    plan: Plan
    pattern: Pattern
    tenant: Tenant
    lost: list[LostDate]
    without: str

    @property
    def measures(self) -> list[Measure]:
        """What is exceeded comes first; a long series has many months."""
        return sorted(self.plan.measures, key=lambda one: not one.is_over)[:MOST_MEASURES]


def offer_of(form: BookingForm, now: datetime) -> Offer | RepeatedOffer | None:
    """The offer for a form; None, with the fault written beside its field, if there can be none."""
    if not form.is_valid():
        return None
    try:
        return _repeated(form, now) if form.is_repeated else _once(form, now)
    except DomainError as error:
        add_domain_error(form, error)
        return None


def _repeated(form: BookingForm, now: datetime) -> RepeatedOffer:
    chosen, pattern = form.cleaned_data, form.pattern(now)
    plan = preview_series(
        actor=Actor.of_person(form.person),
        tenant=chosen["tenant"],
        flavor=chosen["flavor"],
        pattern=pattern,
        **form.storage(),
        now=now,
    )
    return RepeatedOffer(
        plan=plan,
        pattern=pattern,
        tenant=chosen["tenant"],
        lost=[LostDate(one, [_single(form, slot) for slot in one.instead]) for one in plan.lost],
        without=",".join(one.occurrence.day.isoformat() for one in plan.lost),
    )


def _single(form: BookingForm, slot: Slot) -> Proposal:
    """One booking by itself, on a date of a repeated one; in whole minutes that lie within it."""
    window = {"starts_at": form.local(slot.starts_at + _to_whole_minute(slot.starts_at))}
    window["ends_at"] = form.local(slot.ends_at)
    return Proposal("", None, slot, form.address(when="at", length=UNTIL, **window))


def _once(form: BookingForm, now: datetime) -> Offer:
    chosen = form.cleaned_data
    starts_at, ends_at = form.window(now)
    check_window(starts_at, ends_at, now=now)
    asked = _priced(form, max(starts_at, now), ends_at, now)
    extras = form.extras()
    slots = _free(form, asked, extras, now)
    slot = slots[0] if slots else asked
    instead = None if slots else _instead(form, asked, extras, now)
    verdict = judge_booking(
        tenant=chosen["tenant"],
        person=form.person,
        flavor=chosen["flavor"],
        starts_at=slot.starts_at,
        ends_at=slot.ends_at,
        quote=slot.quote,
        now=now,
    )
    return Offer(
        quote=slot.quote,
        starts_at=slot.starts_at,
        ends_at=slot.ends_at,
        tenant=chosen["tenant"],
        verdict=verdict,
        instead=instead,
        found=form.shown(slot.starts_at) if slots and form.is_soon else "",
        alternatives=[_alternative(form, other) for other in slots[1:]],
        longest=_longest(form, slot, extras, now) if slots and chosen["longest"] else None,
        ask_longest=form.address(longest="1"),
    )


def _priced(form: BookingForm, starts_at: datetime, ends_at: datetime, now: datetime) -> Slot:
    flavor, tenant = form.cleaned_data["flavor"], form.cleaned_data["tenant"]
    quote = quote_lease(flavor=flavor, tenant=tenant, starts_at=starts_at, ends_at=ends_at, now=now)
    return Slot(starts_at, ends_at, quote)


def _free(form: BookingForm, asked: Slot, extras: Extras, now: datetime) -> list[Slot]:
    """What is asked for, if it is free; as soon as possible, the first time that is, and the next ones."""
    flavor = form.cleaned_data["flavor"]
    if not form.is_soon:
        return [asked] if is_free(flavor, asked.starts_at, asked.ends_at, extras=extras, now=now) else []
    found = find_slots(
        flavor,
        asked.ends_at - asked.starts_at,
        earliest=asked.starts_at,
        deadline=form.deadline,
        count=1 + LATER,
        tenant=form.cleaned_data["tenant"],
        extras=extras,
        now=now,
    )
    return [slot for slot in found if slot.starts_at <= now + FARTHEST_START]


def _alternative(form: BookingForm, slot: Slot) -> Proposal:
    return Proposal(_("or"), None, slot, form.address(**_moved(form, slot)))


def _longest(form: BookingForm, slot: Slot, extras: Extras, now: datetime) -> Longest | None:
    """Nothing if somebody has just taken it."""
    until = free_until(form.cleaned_data["flavor"], slot.starts_at, extras=extras, now=now)
    if until is None:
        return None
    if until - slot.starts_at >= LONGEST_LEASE:
        return Longest(None)
    last = sayable(whole_minute(until), ZoneInfo(form.person.timezone), -MINUTE)
    when = _at(form, slot.starts_at) if form.is_soon else {}
    address = form.address(**when, length=UNTIL, ends_at=form.local(last))
    return Longest(until, address if last > slot.ends_at else "")


def _instead(form: BookingForm, asked: Slot, extras: Extras, now: datetime) -> Instead:
    flavor, duration = form.cleaned_data["flavor"], asked.ends_at - asked.starts_at
    nearly = near_misses(
        flavor,
        duration,
        person=form.person,
        tenant=form.cleaned_data["tenant"],
        earliest=asked.starts_at,
        deadline=form.deadline,
        extras=extras,
        now=now,
    )
    deadline = deadline_for(form, asked.starts_at, duration, nearly.later[0] if nearly.later else None)
    proposals = list(_proposals(form, flavor, asked.starts_at, nearly))
    return Instead(nearly.obstacles, proposals, deadline, form.is_soon, form.deadline)


def _proposals(form: BookingForm, flavor: Flavor, asked: datetime, nearly: NearMisses) -> Iterator[Proposal]:
    if nearly.plain is not None:
        yield Proposal(_without(form), None, nearly.plain, form.address(without=EXTRAS))
    shorter = nearly.shorter
    if shorter is not None and whole_minute(shorter.ends_at) - shorter.starts_at >= SHORTEST_LEASE:
        when = _at(form, shorter.starts_at) if form.is_soon else {}
        ends_at = form.local(whole_minute(shorter.ends_at))
        yield Proposal(_("shorter"), None, shorter, form.address(**when, length=UNTIL, ends_at=ends_at))
    for slot in nearly.later:
        yield Proposal(_("later"), None, slot, form.address(**_moved(form, slot)))
    for other, slot in nearly.others:
        how = _("smaller") if other.model_id == flavor.model_id else _("another")
        when = {} if slot.starts_at == asked else _moved(form, slot)
        yield Proposal(how, other, slot, form.address(flavor=other.slug, **when))


def _without(form: BookingForm) -> str | Promise:
    """What is left out, if it is one thing."""
    chosen = [name for name in EXTRAS if form.cleaned_data[name]]
    return _WITHOUT[chosen[0]] if len(chosen) == 1 else _("without extras")


_WITHOUT = {
    "with_home": _("without your home volume"),
    "snapshot": _("without the snapshot"),
    "usb": _("without devices"),
}


def _moved(form: BookingForm, slot: Slot) -> dict[str, str]:
    """What the form has to say for the slot, up to the next whole minute."""
    when = _at(form, slot.starts_at)
    if form.data.get("length") == UNTIL:
        when["ends_at"] = form.local(slot.ends_at + _to_whole_minute(slot.starts_at))
    return when


def _at(form: BookingForm, starts_at: datetime) -> dict[str, str]:
    """The same for its start."""
    starts_at = sayable(next_whole_minute(starts_at), ZoneInfo(form.person.timezone), MINUTE)
    return {"when": "at", "starts_at": form.local(starts_at)}


def _to_whole_minute(at: datetime) -> timedelta:
    """How long until the next one, if it is none."""
    return next_whole_minute(at) - at
