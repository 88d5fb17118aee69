"""What the book page says before the button is pressed: the price, and what follows from the choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from leasing.booking import approval_reason, quote_lease
from leasing.errors import DomainError
from leasing.limits import check_window
from leasing.models import Flavor
from leasing.obstacles import InTheWay
from leasing.pricing import Quote
from leasing.reasons import Reason
from leasing.slots import NearMisses, Slot, is_free, near_misses
from leasing.timing import SHORTEST_LEASE
from portal.pages.booking_form import LOCAL_TIME, UNTIL, BookingForm, add_domain_error

MINUTE, MICROSECOND = timedelta(minutes=1), timedelta(microseconds=1)


@dataclass(frozen=True)
class Proposal:
    """What could be had instead, how it differs, and the address of this page with it filled in."""

    how: str | Promise
    other: Flavor | None
    slot: Slot
    address: str


@dataclass(frozen=True)
class Instead:
    """Why it is not free, and what nearly is."""

    obstacles: InTheWay
    proposals: list[Proposal]


@dataclass(frozen=True)
class Offer:
    """What the page says before the button is pressed; `instead` when it cannot be had."""

    quote: Quote
    starts_at: datetime
    ends_at: datetime
    approval_because: Reason
    instead: Instead | None


def offer_of(form: BookingForm, now: datetime) -> Offer | None:
    """The offer for a form; None, with the fault written beside its field, if there can be none."""
    if not form.is_valid():
        return None
    chosen = form.cleaned_data
    starts_at, ends_at = form.starts() or now, form.ends(now)
    try:
        check_window(starts_at, ends_at, now=now)
        quote = quote_lease(flavor=chosen["flavor"], starts_at=starts_at, ends_at=ends_at)
        instead = _instead(form, starts_at, ends_at, now)
    except DomainError as error:
        add_domain_error(form, error)
        return None
    because = approval_reason(
        tenant=chosen["tenant"],
        person=form.person,
        flavor=chosen["flavor"],
        starts_at=starts_at,
        ends_at=ends_at,
        now=now,
    )
    return Offer(quote, starts_at, ends_at, because, instead)


def _instead(form: BookingForm, starts_at: datetime, ends_at: datetime, now: datetime) -> Instead | None:
    flavor, duration, asked = form.cleaned_data["flavor"], ends_at - starts_at, max(starts_at, now)
    if is_free(flavor, asked, ends_at, now=now):
        return None
    nearly = near_misses(flavor, duration, person=form.person, earliest=asked, now=now)
    return Instead(nearly.obstacles, list(_proposals(form, flavor, asked, nearly)))


def _proposals(form: BookingForm, flavor: Flavor, asked: datetime, nearly: NearMisses) -> Iterator[Proposal]:
    shorter = nearly.shorter
    if shorter is not None and _whole_minute(shorter.ends_at) - shorter.starts_at >= SHORTEST_LEASE:
        ends_at = _local(form, _whole_minute(shorter.ends_at))
        yield Proposal(_("shorter"), None, shorter, _address(form, length=UNTIL, ends_at=ends_at))
    for slot in nearly.later:
        yield Proposal(_("later"), None, slot, _address(form, **_moved(form, slot)))
    for other, slot in nearly.others:
        how = _("smaller") if other.model_id == flavor.model_id else _("another")
        when = {} if slot.starts_at == asked else _moved(form, slot)
        yield Proposal(how, other, slot, _address(form, flavor=other.slug, **when))


def _moved(form: BookingForm, slot: Slot) -> dict[str, str]:
    """What the form has to say for the slot, up to the next whole minute."""
    by = _whole_minute(slot.starts_at + MINUTE - MICROSECOND) - slot.starts_at
    when = {"when": "at", "starts_at": _local(form, slot.starts_at + by)}
    if form.data.get("length") == UNTIL:
        when["ends_at"] = _local(form, slot.ends_at + by)
    return when


def _address(form: BookingForm, **changes: str) -> str:
    """This page with the choice so far, changed."""
    names = ("tenant", "flavor", "image", "when", "starts_at", "length", "ends_at")
    chosen = {name: form.data[name] for name in names if name in form.data}
    return f"{reverse('book')}?{urlencode(chosen | changes)}"


def _local(form: BookingForm, at: datetime) -> str:
    return at.astimezone(ZoneInfo(form.person.timezone)).strftime(LOCAL_TIME)


def _whole_minute(at: datetime) -> datetime:
    """The form can say whole minutes only."""
    return at.replace(second=0, microsecond=0)
