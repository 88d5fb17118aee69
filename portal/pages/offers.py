"""What the book page says before the button is pressed: the price, and what follows from the choice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.urls import reverse

from leasing.booking import approval_reason, quote_lease
from leasing.errors import DomainError
from leasing.limits import check_window
from leasing.pricing import Quote
from leasing.reasons import Reason
from leasing.slots import Slot, find_slots, longest_end
from portal.pages.booking_form import LOCAL_TIME, UNTIL, BookingForm, add_domain_error

PROPOSALS = 3


@dataclass(frozen=True)
class Proposal:
    """A window that is free, and the address of this page with it filled in."""

    slot: Slot
    address: str


@dataclass(frozen=True)
class Offer:
    """What the page says before the button is pressed."""

    quote: Quote
    starts_at: datetime
    ends_at: datetime
    approval_because: Reason
    free: bool
    longest: datetime | None
    proposals: list[Proposal]


def offer_of(form: BookingForm, now: datetime) -> Offer | None:
    """The offer for a form; None, with the fault written beside its field, if there can be none."""
    if not form.is_valid():
        return None
    chosen = form.cleaned_data
    starts_at, ends_at = form.starts() or now, form.ends(now)
    try:
        check_window(starts_at, ends_at, now=now)
        quote = quote_lease(flavor=chosen["flavor"], starts_at=starts_at, ends_at=ends_at)
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
    return Offer(quote, starts_at, ends_at, because, *_availability(form, starts_at, ends_at, now))


def _availability(
    form: BookingForm, starts_at: datetime, ends_at: datetime, now: datetime
) -> tuple[bool, datetime | None, list[Proposal]]:
    """Whether it is free then; if not, until when it would be, and when it is for as long as wanted."""
    flavor, duration = form.cleaned_data["flavor"], ends_at - starts_at
    slots = find_slots(flavor, duration, earliest=starts_at, count=PROPOSALS, now=now)
    if slots and slots[0].starts_at <= max(starts_at, now):
        return True, None, []
    longest = longest_end(flavor, max(starts_at, now), until=ends_at, now=now)
    return False, longest, [Proposal(slot, _address_of(form, slot)) for slot in slots]


def _address_of(form: BookingForm, slot: Slot) -> str:
    """Up to the next whole minute, which is all that the form can say."""
    starts_at = slot.starts_at + (-slot.starts_at.timestamp() % 60) * timedelta(seconds=1)
    names = ("tenant", "flavor", "image", "length", "ends_at")
    chosen = {name: form.data[name] for name in names if name in form.data}
    zone = ZoneInfo(form.person.timezone)
    window = {"when": "at", "starts_at": starts_at.astimezone(zone).strftime(LOCAL_TIME)}
    if chosen.get("length") == UNTIL:
        ends_at = starts_at + (slot.ends_at - slot.starts_at)
        window["ends_at"] = ends_at.astimezone(zone).strftime(LOCAL_TIME)
    return f"{reverse('book')}?{urlencode(chosen | window)}"
