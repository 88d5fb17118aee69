"""Waiting in line: what I wait for, how it looks, and what is offered to me."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import metering, offering, waitlist
from leasing.booking import limits_met
from leasing.errors import InvalidRequest
from leasing.models import Person
from leasing.reasons import NONE, Reason
from leasing.slots import Slot
from leasing.states.lease import LeaseState
from leasing.waitlist import Outlook
from portal.middleware import PersonRequest
from portal.pages.actions import action
from portal.pages.booking_form import LOCAL_TIME, BookingForm, LocalTimeField, choices_for

LONGEST_PROPOSED = timedelta(days=14)
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Waiting:
    """An entry as its owner sees it; why an approver must agree to what is offered, if one must."""

    outlook: Outlook
    approval_because: Reason


def in_line(person: Person, now: datetime) -> list[Waiting]:
    """What the person waits for, offers first."""
    entries = waitlist.entries_of(person).filter(closed_at=None)
    found = [_waiting(waitlist.outlook(entry, now=now), now) for entry in entries]
    return sorted(found, key=lambda one: (one.outlook.offer is None, one.outlook.entry.last_start_at))


def deadline_for(form: BookingForm, asked: datetime, duration: timedelta, first: Slot | None) -> str:
    """The deadline to propose to somebody whom nothing fits: before the first time that they could book."""
    latest = asked + duration + LONGEST_PROPOSED
    before = latest if first is None else min(latest, first.ends_at - MINUTE)
    deadline = form.deadline or before
    return form.data.get("deadline") or timezone.localtime(deadline).strftime(LOCAL_TIME)


@login_required
@require_safe
def entry(request: PersonRequest, entry_id: UUID) -> HttpResponse:
    return render(request, "waiting/entry.html", _shown(request, entry_id))


@login_required
@require_safe
def entry_live(request: PersonRequest, entry_id: UUID) -> HttpResponse:
    """The part of the page that changes while one looks."""
    return render(request, "waiting/_entry.html", _shown(request, entry_id))


@action
def join(request: PersonRequest) -> str:
    """From the book page, with what is chosen there and a deadline."""
    form, now = BookingForm(request.user, choices_for(request), request.POST), timezone.now()
    if not form.is_valid():
        raise InvalidRequest(_("Choose what, when and how long first."))
    joined = waitlist.join_waitlist(
        actor=request.actor,
        tenant=form.cleaned_data["tenant"],
        flavor=form.cleaned_data["flavor"],
        image=form.cleaned_data["image"],
        duration=form.ends(now) - (form.starts() or now),
        earliest=form.starts(),
        deadline=_deadline(request),
        purpose=form.cleaned_data["purpose"],
        usb=form.cleaned_data["usb"],
        **form.storage(),
        now=now,
    )
    messages.success(request, _("You are in line. You are told by e-mail and here when it comes free."))
    return _page_of(joined.pk)


@action
def claim(request: PersonRequest, entry_id: UUID) -> str:
    lease = waitlist.claim_offer(actor=request.actor, entry_id=entry_id, now=timezone.now())
    if lease.state == LeaseState.REQUESTED:
        messages.success(request, _("Claimed. It is held while an approver decides."))
    else:
        messages.success(request, _("Claimed. Everything that happens to it is shown here."))
    return reverse("workstation", args=[lease.pk])


@action
def decline(request: PersonRequest, entry_id: UUID) -> str:
    declined = waitlist.decline_offer(actor=request.actor, entry_id=entry_id, now=timezone.now())
    if declined.closed_at is None:
        messages.success(request, _("Declined. You keep your place in line."))
        return _page_of(entry_id)
    messages.success(request, _("Declined, and you are no longer in line."))
    return reverse("home")


@action
def leave(request: PersonRequest, entry_id: UUID) -> str:
    waitlist.leave_waitlist(actor=request.actor, entry_id=entry_id, now=timezone.now())
    messages.success(request, _("You have left the line."))
    return reverse("home")


@action
def change_deadline(request: PersonRequest, entry_id: UUID) -> str:
    waitlist.fetch_entry(request.actor, entry_id)
    waitlist.change_deadline(
        actor=request.actor, entry_id=entry_id, deadline=_deadline(request), now=timezone.now()
    )
    messages.success(request, _("The deadline is changed. You keep your place in line."))
    return _page_of(entry_id)


def _shown(request: PersonRequest, entry_id: UUID) -> dict[str, Any]:
    now = timezone.now()
    found = waitlist.fetch_entry(request.actor, entry_id)
    waiting = None if found.closed_at else _waiting(waitlist.outlook(found, now=now), now)
    return {"entry": found, "waiting": waiting, "chances_left": offering.CHANCES - found.passes, "now": now}


def _waiting(outlook: Outlook, now: datetime) -> Waiting:
    offer = outlook.offer
    reason = NONE if offer is None else limits_met(offer, metering.terms(offer), now=now).reason
    return Waiting(outlook, reason)


def _deadline(request: PersonRequest) -> datetime:
    try:
        deadline: datetime | None = LocalTimeField().clean(request.POST.get("deadline", ""))
    except ValidationError as error:
        raise InvalidRequest(error.messages[0], field="deadline") from error
    if deadline is None:
        raise InvalidRequest(_("Say by when it must have ended."), field="deadline")
    return deadline


def _page_of(entry_id: UUID) -> str:
    return reverse("waiting", args=[entry_id])
