"""Tenants as operators keep them: added with an owner, named, with their standing limits."""

from __future__ import annotations

import zoneinfo
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.errors import InvalidRequest
from leasing.membership import closing, tenants
from leasing.models import Tenant
from portal.middleware import PersonRequest
from portal.pages.actions import action

LIMITS = ("concurrent_gpus", "longest_lease_hours", "book_ahead_days")
LARGEST = 100_000


@login_required
@require_safe
def keep(request: PersonRequest) -> HttpResponse:
    policy.require_fleet_reader(request.user)
    found = [
        (one, policy.people_with_role(one, "owner").order_by("username"))
        for one in Tenant.objects.order_by("name")
    ]
    context = {
        "tenants": found,
        "zones": sorted(zoneinfo.available_timezones()),
        "largest": LARGEST,
        "may_operate": policy.is_operator(request.user),
    }
    return render(request, "fleet/tenants.html", context)


@action
def add(request: PersonRequest) -> str:
    policy.require_operator(request.user)
    tenant = tenants.add_tenant(
        actor=request.actor,
        slug=request.POST.get("slug", "").strip()[:51],
        facts=_given(request),
        owner=request.POST.get("owner", "")[:150],
        now=timezone.now(),
    )
    messages.success(request, _("%(team)s is added.") % {"team": tenant})
    return reverse("keep-tenants")


@action
def change(request: PersonRequest, slug: str) -> str:
    policy.require_operator(request.user)
    tenant = tenants.change_tenant(actor=request.actor, slug=slug, facts=_given(request), now=timezone.now())
    messages.success(request, _("%(team)s is changed; what is booked stays.") % {"team": tenant})
    return reverse("keep-tenants")


@action
def appoint(request: PersonRequest, slug: str) -> str:
    policy.require_operator(request.user)
    username = request.POST.get("owner", "")[:150]
    person = tenants.appoint_owner(actor=request.actor, slug=slug, username=username, now=timezone.now())
    messages.success(request, _("%(person)s is an owner of the team.") % {"person": person})
    return reverse("keep-tenants")


@action
def reopen(request: PersonRequest, slug: str) -> str:
    policy.require_operator(request.user)
    tenant = closing.reopen_tenant(actor=request.actor, slug=slug, now=timezone.now())
    messages.success(request, _("%(team)s is open again.") % {"team": tenant})
    return reverse("keep-tenants")


def _given(request: PersonRequest) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": request.POST.get("name", "").strip()[:101],
        "timezone": request.POST.get("timezone", "")[:64],
    }
    for name in LIMITS:
        given = request.POST.get(name, "").strip()
        if not (given.isascii() and given.isdecimal() and len(given) < 9 and int(given) <= LARGEST):
            raise InvalidRequest(_("Limits are whole numbers."), field=name)
        facts[name] = int(given)
    return facts
