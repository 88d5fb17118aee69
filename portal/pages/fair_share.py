"""What the fair share of each team weighs: shown to those who see the fleet, changed by operators."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.fair_share import HEAVIEST, set_weight
from leasing.models import Tenant
from portal.middleware import PersonRequest
from portal.pages.actions import action


@login_required
@require_safe
def weights(request: PersonRequest) -> HttpResponse:
    policy.require_fleet_reader(request.user)
    tenants = Tenant.objects.order_by("name")
    context = {
        "tenants": tenants,
        "total": sum(tenant.weight for tenant in tenants),
        "heaviest": HEAVIEST,
        "may_operate": policy.is_operator(request.user),
    }
    return render(request, "fleet/weights.html", context)


@action
def change_weight(request: PersonRequest, slug: str) -> str:
    policy.require_operator(request.user)
    given = request.POST.get("weight", "").strip()
    # Whatever is no number is refused as one that is too small.
    weight = int(given) if given.isascii() and given.isdecimal() and len(given) < 9 else 0
    tenant = set_weight(actor=request.actor, tenant=slug, weight=weight, now=timezone.now())
    messages.success(
        request,
        _("The fair share of %(team)s weighs %(weight)d from now on.")
        % {"team": tenant, "weight": tenant.weight},
    )
    return reverse("weights")
