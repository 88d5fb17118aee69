"""Moving a workstation that has not begun to another time: what that costs and does, then the move."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from leasing import policy
from leasing.changing import change_window
from leasing.errors import DomainError, InvalidRequest
from leasing.models import Lease
from leasing.other_time import OtherTime, other_time, require_ahead
from leasing.slots import NearMisses, Slot
from leasing.timing import SHORTEST_LEASE
from portal.middleware import PersonRequest
from portal.pages.actions import action
from portal.pages.booking_form import LOCAL_TIME, LocalTimeField
from portal.pages.calendar_windows import next_whole_minute, whole_minute


class WindowForm(forms.Form):
    """From when until when, in the reader's zone."""

    starts_at = LocalTimeField()
    ends_at = LocalTimeField()

    def window(self) -> tuple[datetime, datetime]:
        """Raises InvalidRequest."""
        for field, words in _MISSING.items():
            for error in self.errors.get(field, ()):
                raise InvalidRequest(str(error), field=field)
            if self.cleaned_data[field] is None:
                raise InvalidRequest(str(words), field=field)
        return self.cleaned_data["starts_at"], self.cleaned_data["ends_at"]


_MISSING: dict[str, Promise] = {
    "starts_at": gettext_lazy("Say from when."),
    "ends_at": gettext_lazy("Say until when."),
}


@login_required
def move(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    """The form, with what the window that it names would cost and do; the same alone, as a fragment."""
    if request.method == "POST":
        return _move(request, lease_id)
    lease = policy.fetch_lease(request.user, lease_id, "use")
    require_ahead(lease)
    form = WindowForm(request.GET or _window_of(lease))
    context: dict[str, Any] = {"lease": lease, "form": form, **_found(lease, form, now=timezone.now())}
    fragment = request.headers.get("HX-Request")
    return render(request, "workstation/_other_time.html" if fragment else "workstation/move.html", context)


@action
def _move(request: PersonRequest, lease_id: UUID) -> str:
    policy.fetch_lease(request.user, lease_id, "use")
    starts_at, ends_at = WindowForm(request.POST).window()
    change_window(
        actor=request.actor, lease_id=lease_id, starts_at=starts_at, ends_at=ends_at, now=timezone.now()
    )
    messages.success(request, _("Moved. Your calendar feed follows."))
    return reverse("workstation", args=[lease_id])


def _found(lease: Lease, form: WindowForm, *, now: datetime) -> dict[str, Any]:
    try:
        starts_at, ends_at = form.window()
        if (starts_at, ends_at) == (whole_minute(lease.starts_at), whole_minute(lease.ends_at)):
            return {}
        found = other_time(lease, starts_at, ends_at, now=now)
    except DomainError as error:
        return {"refused": error}
    return {"found": found, "proposals": list(_proposals(lease, found))}


def _proposals(lease: Lease, found: OtherTime) -> Iterator[tuple[str, Slot, str]]:
    """How each differs, when it is, and the address of this page with it filled in."""
    nearly: NearMisses | None = found.instead
    if nearly is None:
        return
    shorter = nearly.shorter
    if shorter is not None and whole_minute(shorter.ends_at) - shorter.starts_at >= SHORTEST_LEASE:
        yield _("shorter"), shorter, _address(lease, shorter.starts_at, whole_minute(shorter.ends_at))
    for slot in nearly.later:
        by: timedelta = next_whole_minute(slot.starts_at) - slot.starts_at
        yield _("later"), slot, _address(lease, slot.starts_at + by, slot.ends_at + by)


def _address(lease: Lease, starts_at: datetime, ends_at: datetime) -> str:
    window = {"starts_at": _local(starts_at), "ends_at": _local(ends_at)}
    return f"{reverse('workstation-move', args=[lease.pk])}?{urlencode(window)}"


def _window_of(lease: Lease) -> dict[str, str]:
    return {"starts_at": _local(lease.starts_at), "ends_at": _local(lease.ends_at)}


def _local(at: datetime) -> str:
    return timezone.localtime(at).strftime(LOCAL_TIME)
