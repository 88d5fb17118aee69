"""The approvals inbox: what waits for this person's decision, and the decision."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.approval import (
    approve_lease,
    is_revocable,
    reject_lease,
    revoke_approval,
    waiting_for_decision,
)
from leasing.considerations import Considerations, considerations
from leasing.errors import InvalidRequest, NotVisible
from leasing.models import Lease
from leasing.together.deciding import hand_overs_to_decide
from portal.middleware import PersonRequest
from portal.pages.actions import action, back_of
from portal.pages.booking_form import chosen_end
from portal.pages.series import asked_series
from portal.pages.together import Together, together_on

NOTE_LENGTH = 500
PAGE = 20
DECIDED = 10


@dataclass(frozen=True)
class Request:
    """A request, and what somebody who may decide on it has to know."""

    lease: Lease
    may_decide: bool
    known: Considerations
    together: Together


@login_required
@require_safe
def approvals(request: PersonRequest) -> HttpResponse:
    now, person = timezone.now(), request.user
    tenants = policy.tenants_with_role(person, "approver")
    if not tenants.exists():
        raise NotVisible(_("There is nothing here."))
    leases = policy.visible_leases(person).filter(tenant__in=tenants).select_related("decided_by")
    page = Paginator(waiting_for_decision(person).filter(series=None), PAGE).get_page(request.GET.get("page"))
    decided = leases.filter(decided_at__isnull=False).order_by("-decided_at")[:DECIDED]
    context = {
        "page": page,
        "repeated": asked_series(person, now=now),
        "handed": [
            (made, person.pk not in (made.giver_id, made.taker_id)) for made in hand_overs_to_decide(person)
        ],
        "waiting": [
            Request(one, one.owner_id != person.pk, considerations(one, now=now), together_on(person, one))
            for one in page
        ],
        "decided": [(one, is_revocable(one) and policy.may(person, one, "decide")) for one in decided],
    }
    return render(request, "approvals.html", context)


@action
def decide(request: PersonRequest, lease_id: UUID) -> str:
    note, now = request.POST.get("note", "").strip(), timezone.now()
    policy.fetch_lease(request.user, lease_id, "decide")
    if len(note) > NOTE_LENGTH:
        raise InvalidRequest(_("The note is too long; at most 500 characters are kept."), field="note")
    match request.POST.get("decision"):
        case "approve":
            approve_lease(actor=request.actor, lease_id=lease_id, note=note, now=now)
            messages.success(request, _("Approved."))
        case "shorten":
            ends_at = chosen_end(request.POST.get("ends_at", ""))
            approve_lease(actor=request.actor, lease_id=lease_id, note=note, ends_at=ends_at, now=now)
            messages.success(request, _("Approved, with the earlier end."))
        case "reject":
            reject_lease(actor=request.actor, lease_id=lease_id, note=note, now=now)
            messages.success(request, _("Declined, and the person is told why."))
        case "revoke":
            revoke_approval(actor=request.actor, lease_id=lease_id, note=note, now=now)
            messages.success(request, _("Taken back, and the person is told why."))
        case _other:
            raise InvalidRequest(_("Approve or decline."))
    return back_of(request) if "back" in request.POST else reverse("approvals")
