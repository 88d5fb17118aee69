"""Snapshots: one is asked for on its workstation's page, and removed where people see what they keep."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from leasing.errors import DomainError
from leasing.snapshots import remove_snapshot, take_snapshot
from leasing.snapshots_kept import fetch_snapshot
from leasing.states.snapshot import SnapshotState
from portal.middleware import PersonRequest
from portal.pages.actions import action


@action
def take(request: PersonRequest, lease_id: UUID) -> str:
    """Now, while its machine is off, or when it ends."""
    at_end = "at_end" in request.POST
    take_snapshot(actor=request.actor, lease_id=lease_id, at_end=at_end, now=timezone.now())
    if at_end:
        messages.success(request, _("A snapshot of it is taken when it ends."))
    else:
        messages.success(request, _("Asked the host. You are told when the snapshot is taken."))
    return reverse("workstation", args=[lease_id])


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: PersonRequest, snapshot_id: UUID) -> HttpResponse:
    """Asks first, and says what is lost."""
    snapshot = fetch_snapshot(request.user, snapshot_id)
    if request.method != "POST":
        return render(request, "storage/remove_snapshot.html", {"snapshot": snapshot})
    try:
        gone = remove_snapshot(actor=request.actor, snapshot_id=snapshot_id, now=timezone.now())
        if gone.state == SnapshotState.REMOVED:
            messages.success(request, _("No snapshot is taken when it ends."))
        else:
            messages.success(request, _("The snapshot is being removed."))
    except DomainError as error:
        messages.error(request, " ".join(filter(None, (str(error.message), str(error.hint)))))
    own = snapshot.person_id == request.user.pk
    return redirect("storage") if own else redirect("team", snapshot.tenant.slug)
