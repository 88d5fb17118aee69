"""The approvals inbox: what waits for this person's decision, and the decision."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.approval import approve_lease, reject_lease
from leasing.errors import InvalidRequest, NotVisible
from leasing.states.lease import LeaseState
from portal.middleware import PersonRequest
from portal.pages.actions import action, back_of

NOTE_LENGTH = 500
DECIDED = 10


@login_required
@require_safe
def approvals(request: PersonRequest) -> HttpResponse:
    tenants = policy.tenants_with_role(request.user, "approver")
    if not tenants.exists():
        raise NotVisible(_("There is nothing here."))
    leases = policy.visible_leases(request.user).filter(tenant__in=tenants)
    waiting = leases.filter(state=LeaseState.REQUESTED).order_by("requested_at", "starts_at")
    context = {
        "waiting": [(lease, lease.owner_id != request.user.pk) for lease in waiting],
        "decided": leases.filter(decided_at__isnull=False).order_by("-decided_at")[:DECIDED],
    }
    return render(request, "approvals.html", context)


@action
def decide(request: PersonRequest, lease_id: UUID) -> str:
    decision, note = request.POST.get("decision"), request.POST.get("note", "").strip()
    if len(note) > NOTE_LENGTH:
        raise InvalidRequest(_("The note is too long; at most 500 characters are kept."), field="note")
    if decision == "approve":
        approve_lease(actor=request.actor, lease_id=lease_id, note=note, now=timezone.now())
        messages.success(request, _("Approved."))
    elif decision == "reject":
        reject_lease(actor=request.actor, lease_id=lease_id, note=note, now=timezone.now())
        messages.success(request, _("Declined, and the person is told why."))
    else:
        raise InvalidRequest(_("Approve or decline."))
    return back_of(request) if "back" in request.POST else reverse("approvals")
