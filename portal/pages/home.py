"""Home: my workstations now, next, waiting and lately; and the list of all that the person may see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.models import Lease, Share
from leasing.reminders import LADDER
from leasing.states.lease import HOLDING, ON_HOST, LeaseState
from leasing.together.handing_over import offered_to
from leasing.usage import lease_cost
from portal.middleware import PersonRequest
from portal.pages.context import roles_in
from portal.pages.together import shared_with
from portal.pages.waitlist import in_line

RECENT = 5
COMING = 20
PAGE = 25


@dataclass(frozen=True)
class Card:
    """A workstation on a host, as its owner sees it."""

    lease: Lease
    cost: Decimal
    passed_permille: int
    usable: bool
    controlled: bool
    step: Any
    ends_soon: bool
    share: Share | None = None


@dataclass
class Row:
    """A workstation that is to come, and how many others of its series come after it."""

    lease: Lease
    others: int = 0


@login_required
@require_safe
def home(request: PersonRequest) -> HttpResponse:
    return render(request, "home/home.html", _mine(request, timezone.now()))


@login_required
@require_safe
def home_live(request: PersonRequest) -> HttpResponse:
    return render(request, "home/_mine.html", _mine(request, timezone.now()))


@login_required
@require_safe
def workstations(request: PersonRequest) -> HttpResponse:
    """Own ones for members, those of the team for approvers, all for auditors."""
    wanted = request.GET.get("state", "")
    led = [one for one, roles in roles_in(request, request.user).items() if "approver" in roles]
    leases = policy.visible_leases(request.user, led=led)
    if wanted == "open":
        leases = leases.filter(state__in=HOLDING)
    elif wanted in LeaseState.__members__.values():
        leases = leases.filter(state=wanted)
    page = Paginator(leases.order_by("-starts_at", "id"), PAGE).get_page(request.GET.get("page"))
    context = {"page": page, "wanted": wanted, "states": list(LeaseState)}
    return render(request, "home/workstations.html", context)


def _mine(request: PersonRequest, now: datetime) -> dict[str, Any]:
    person = request.user
    member_of = {tenant.pk for tenant, roles in roles_in(request, person).items() if "member" in roles}
    mine = policy.own_leases(person).prefetch_related("segments", "steps")
    open_ones = mine.filter(state__in=[*ON_HOST, LeaseState.SCHEDULED, LeaseState.REQUESTED])
    of_state = defaultdict(list)
    for lease in open_ones.order_by("starts_at", "ends_at"):
        of_state[lease.state].append(lease)
    running = sorted((lease for state in ON_HOST for lease in of_state[state]), key=attrgetter("ends_at"))
    coming = _rows(of_state[LeaseState.SCHEDULED])
    shares = shared_with(person)
    visible = policy.visible_leases(person).prefetch_related("segments", "steps")
    shared = visible.filter(pk__in=shares).exclude(owner=person).order_by("ends_at") if shares else ()
    return {
        "offers": offered_to(person),
        "shared": [_card(lease, usable=False, now=now, share=shares[lease.pk]) for lease in shared],
        "cards": [_card(lease, usable=lease.tenant_id in member_of, now=now) for lease in running],
        "line": in_line(person, now),
        "coming": coming[:COMING],
        "later": len(coming[COMING:]),
        "waiting": _rows(of_state[LeaseState.REQUESTED]),
        "recent": mine.filter(state=LeaseState.ENDED).order_by("-state_since")[:RECENT],
        "may_book": bool(member_of),
        "now": now,
    }


def _rows(leases: Iterable[Lease]) -> list[Row]:
    """Of a series only the first."""
    first: dict[UUID, Row] = {}
    for lease in leases:
        row = first.setdefault(lease.series_id or lease.pk, Row(lease))
        row.others += row.lease != lease
    return list(first.values())


def _card(lease: Lease, *, usable: bool, now: datetime, share: Share | None = None) -> Card:
    """`usable` says whether it is the person's own and they still are a member."""
    active = lease.state == LeaseState.ACTIVE
    undone = [step for step in lease.steps.all() if step.state != "done"]
    return Card(
        lease=lease,
        cost=lease_cost(lease, now=now),
        passed_permille=passed_permille(lease, now),
        usable=active and usable,
        controlled=active and (usable or (share is not None and share.level == Share.Level.USE)),
        share=share,
        step=undone[-1] if undone else None,
        ends_soon=lease.ends_at - now <= LADDER[0],
    )


def passed_permille(lease: Lease, now: datetime) -> int:
    """How much of the booked time is over, in thousandths."""
    passed = (now - lease.starts_at) / (lease.ends_at - lease.starts_at)
    return round(1000 * min(1.0, max(0.0, passed)))
