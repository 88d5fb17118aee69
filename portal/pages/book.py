"""The book page: what, with which system, when and how long; the price is there before the button."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from leasing.booking import request_lease
from leasing.errors import DomainError
from leasing.homes import homes_in_reach
from leasing.models import Flavor, Image, Lease, Series, Tenant
from leasing.pricing import rates_of
from leasing.series import book_series
from leasing.snapshots_kept import snapshots_of
from leasing.states.snapshot import SnapshotState
from portal.middleware import PersonRequest
from portal.pages.booking_form import (
    IN_ADDRESS,
    LENGTHS,
    WEEKS,
    BookingForm,
    Choices,
    add_domain_error,
    choices_for,
)
from portal.pages.offers import offer_of
from portal.pages.timeline import timeline_of


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def book(request: PersonRequest) -> HttpResponse:
    now, choices = timezone.now(), choices_for(request)
    if request.method != "POST":
        suggested = _suggested(request, choices)
        form = BookingForm(request.user, choices, initial=suggested)
        return _page(request, choices, form, BookingForm(request.user, choices, suggested), now)
    form = BookingForm(request.user, choices, request.POST)
    if "show_price" in request.POST:
        return _page(request, choices, form, form, now)
    booked = _booked(request, form, now) if form.is_valid() else None
    if booked is None:
        return _page(
            request, choices, form, BookingForm(request.user, choices, request.POST), now, status=400
        )
    messages.success(request, _booked_words(booked))
    return redirect("series" if isinstance(booked, Series) else "workstation", booked.pk)


@login_required
@require_safe
def book_price(request: PersonRequest) -> HttpResponse:
    """The price and what follows from the choice so far, as a fragment; works on an unfinished form."""
    now = timezone.now()
    form = BookingForm(request.user, choices_for(request), request.GET)
    return render(request, "book/_price.html", {"offer": offer_of(form, now), "form": form})


def _booked(request: PersonRequest, form: BookingForm, now: datetime) -> Lease | Series | None:
    chosen = form.cleaned_data
    names = ("tenant", "flavor", "image", "purpose", "project", "cost_centre")
    asked = {"actor": request.actor, "now": now, **{name: chosen[name] for name in names}}
    try:
        asked |= form.storage()
        if form.is_repeated:
            return book_series(pattern=form.pattern(now), without=chosen["without"], **asked)
        starts_at, ends_at = form.found(now) if form.is_soon else (form.starts(), form.ends(now))
        return request_lease(starts_at=starts_at, ends_at=ends_at, usb=chosen["usb"], **asked)
    except DomainError as error:
        add_domain_error(form, error)
        return None


def _booked_words(booked: Lease | Series) -> str:
    first = booked.leases.first() if isinstance(booked, Series) else booked
    if first is not None and first.needs_approval_because:
        return _("Asked. You will be told by e-mail when it has been decided.")
    if isinstance(booked, Series):
        return _("Booked. Each date is a workstation of its own.")
    return _("Booked. Everything that happens to it is shown here.")


def _suggested(request: PersonRequest, choices: Choices) -> dict[str, Any]:
    """What is chosen at first: the address may say, as “book again” does."""
    first = {
        "tenant": _first_slug(choices.tenants),
        "flavor": _first_slug(choices.flavors),
        "image": _first_slug(choices.images),
        "when": "now",
        "length": "4h",
    }
    named = (*IN_ADDRESS, "last_on", "every_weeks", "with_home", "snapshot")
    chosen = {name: request.GET[name] for name in named if name in request.GET}
    return first | chosen | {name: request.GET.getlist(name) for name in ("weekdays", "usb")}


def _first_slug(listed: Sequence[Tenant | Flavor | Image]) -> str | None:
    return listed[0].slug if listed else None


def _page(
    request: PersonRequest,
    choices: Choices,
    form: BookingForm,
    asked: BookingForm,
    now: datetime,
    *,
    status: int = 200,
) -> HttpResponse:
    """`form` is shown with its faults; `asked` has the same choice, and what is offered is for it."""
    rates = rates_of(choices.flavors, at=now)
    context = {
        "form": form,
        "offer": offer_of(asked, now),
        "flavors": [(flavor, rates.get(flavor.pk)) for flavor in choices.flavors],
        "images": choices.images,
        "devices": choices.devices,
        "chosen_devices": set(map(str, form["usb"].value() or [])),
        "tenants": choices.tenants,
        "lengths": [(name, word) for name, (word, _length) in LENGTHS.items()],
        "zone": request.user.timezone,
        "weekdays": form.fields["weekdays"].choices,  # type: ignore[attr-defined]
        "repeated_on": set(map(str, form["weekdays"].value() or [])),
        "weeks": WEEKS.items(),
        "homes": (homes := homes_in_reach(request.user, now=now)),
        "snapshots": snapshots_of(request.user).filter(state=SnapshotState.KEPT) if homes.offered else (),
        "chosen_snapshot": str(form["snapshot"].value() or ""),
        "timeline": timeline_of(asked, asked.data["days"], now) if "days" in asked.data else None,
        "timeline_address": asked.address(days=""),
    }
    return render(request, "book/book.html", context, status=status)
