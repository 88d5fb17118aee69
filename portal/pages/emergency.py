"""The emergency stop: what it would do, and then the deed, by typing the name of what is stopped."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from hosts.models import Host
from leasing import emergency, policy
from leasing.errors import DomainError, NotVisible
from leasing.models import EmergencyStop, Tenant
from portal.api.problems import status_of
from portal.middleware import PersonRequest
from portal.pages.actions import action

SHOWN_PAST = 20


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def stop(request: PersonRequest) -> HttpResponse:
    """Without `scope` what can be stopped; with it what that would do."""
    policy.require_operator(request.user)
    given = request.POST if request.method == "POST" else request.GET
    scope, name = given.get("scope", ""), given.get("name", "")[:100]
    if not scope:
        return render(request, "fleet/stop.html", _choices())
    refused: DomainError | None = None
    if request.method == "POST":
        try:
            emergency.stop(
                actor=request.actor,
                scope=scope,
                name=name,
                bookings="bookings" in given,
                machines="machines" in given,
                reason=given.get("reason", ""),
                typed=given.get("typed", "")[:200],
                seen=given.get("seen", ""),
                now=timezone.now(),
            )
        except NotVisible:
            raise
        except DomainError as error:
            refused = error
        else:
            messages.success(request, _("Stopped. It counts until somebody lifts it here."))
            return redirect("emergency-stop")
    found = emergency.preview_stop(actor=request.actor, scope=scope, name=name)
    context = {"found": found, "name": name, "given": given, "refused": refused}
    return render(request, "fleet/stop_it.html", context, status=status_of(refused) if refused else 200)


@action
def lift(request: PersonRequest, stop_id: int) -> str:
    policy.require_operator(request.user)
    emergency.lift_stop(actor=request.actor, stop_id=stop_id, now=timezone.now())
    messages.success(
        request, _("Lifted. What was stopped stays stopped; it can be booked and started again.")
    )
    return reverse("emergency-stop")


def _choices() -> dict[str, Any]:
    past = EmergencyStop.objects.exclude(lifted_at=None).select_related("host", "tenant", "lifted_by")
    return {
        "in_force": emergency.in_force(),
        "past": past[:SHOWN_PAST],
        "hosts": Host.objects.filter(retired_at=None).order_by("name"),
        "tenants": Tenant.objects.order_by("name"),
    }
