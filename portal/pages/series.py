"""A repeated booking: all its dates, and what can be done with all of them at once."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.approval import approve_series, reject_series
from leasing.considerations import of_series
from leasing.ending import end_series
from leasing.errors import InvalidRequest, WrongState
from leasing.limits import Measure
from leasing.models import Lease, Person, Series
from leasing.states.lease import AHEAD, LeaseState
from portal.middleware import PersonRequest
from portal.pages.actions import action, back_of

NOTE_LENGTH = 500


@login_required
@require_safe
def series(request: PersonRequest, series_id: UUID) -> HttpResponse:
    found = policy.fetch_series(request.user, series_id, "view")
    return render(request, "series/series.html", _shown(request.user, found, timezone.now()))


@login_required
@require_safe
def series_live(request: PersonRequest, series_id: UUID) -> HttpResponse:
    """The part of the page that changes while one looks."""
    found = policy.fetch_series(request.user, series_id, "view")
    return render(request, "series/_live.html", _shown(request.user, found, timezone.now()))


@login_required
def cancel(request: PersonRequest, series_id: UUID) -> HttpResponse:
    """Consequences first, then the end of everything that has not begun."""
    if request.method == "POST":
        return _cancel_now(request, series_id)
    found = policy.fetch_series(request.user, series_id, "end")
    shown = _shown(request.user, found, timezone.now())
    if not shown["ahead"]:
        raise WrongState(
            _("Nothing of this series is still ahead."), hint=_("End what runs on its own page.")
        )
    return render(request, "series/cancel.html", shown)


@action
def _cancel_now(request: PersonRequest, series_id: UUID) -> str:
    count = end_series(actor=request.actor, series_id=series_id, now=timezone.now())
    words = ngettext("%(n)d workstation is cancelled.", "%(n)d workstations are cancelled.", count)
    messages.success(request, f"{words % {'n': count}} {_('Nothing is billed.')}")
    return reverse("series", args=[series_id])


@action
def decide(request: PersonRequest, series_id: UUID) -> str:
    """On everything of it that still waits."""
    note, now = request.POST.get("note", "").strip(), timezone.now()
    if len(note) > NOTE_LENGTH:
        raise InvalidRequest(_("The note is too long; at most 500 characters are kept."), field="note")
    match request.POST.get("decision"):
        case "approve":
            approve_series(actor=request.actor, series_id=series_id, note=note, now=now)
            messages.success(request, _("Approved."))
        case "reject":
            reject_series(actor=request.actor, series_id=series_id, note=note, now=now)
            messages.success(request, _("Declined, and the person is told why."))
        case _other:
            raise InvalidRequest(_("Approve or decline."))
    return back_of(request) if "back" in request.POST else reverse("series", args=[series_id])


@dataclass(frozen=True)
class AskedSeries:
    """What of a series waits for a decision."""

    series: Series
    waiting: list[Lease]
    may_decide: bool
    measures: list[Measure]

    @property
    def first(self) -> Lease:
        return self.waiting[0]

    @property
    def totals(self) -> dict[str, Decimal]:
        return totals(self.waiting)


def asked_series(person: Person, *, now: datetime) -> list[AskedSeries]:
    """Those of tenants for which the person decides, the earliest asked for first."""
    waiting = Prefetch(
        "leases",
        Lease.objects.filter(state=LeaseState.REQUESTED)
        .select_related("tenant", "owner", "flavor")
        .order_by("starts_at", "id"),
        to_attr="waiting",
    )
    found = policy.visible_series(person).filter(
        tenant__in=policy.tenants_with_role(person, "approver"),
        pk__in=Lease.objects.filter(state=LeaseState.REQUESTED, series__isnull=False).values("series"),
    )
    rows = found.prefetch_related(waiting).order_by("requested_at", "id")
    return [
        AskedSeries(one, one.waiting, one.owner_id != person.pk, of_series(one.waiting, now=now))
        for one in rows
    ]


def _shown(person: Person, found: Series, now: datetime) -> dict[str, Any]:
    leases = list(found.leases.select_related("tenant", "owner", "flavor__model").order_by("starts_at", "id"))
    ahead = [lease for lease in leases if lease.state in AHEAD]
    waiting = [lease for lease in leases if lease.state == LeaseState.REQUESTED]
    sees_cost = policy.may(person, found, "cost")
    return {
        "series": found,
        "leases": leases,
        "ahead": ahead,
        "waiting": waiting,
        "totals": totals(leases) if sees_cost else {},
        "left_out": sorted(found.days_left_out),
        "may_end": bool(ahead) and policy.may(person, found, "end"),
        "may_decide": bool(waiting) and policy.may(person, found, "decide"),
        "now": now,
    }


def totals(leases: list[Lease]) -> dict[str, Decimal]:
    """What was quoted for all that was not turned down or cancelled, by currency."""
    found: dict[str, Decimal] = defaultdict(Decimal)
    for lease in leases:
        if lease.outcome in ("", "completed"):
            found[lease.currency] += lease.quoted_total
    return dict(found)
