"""Tenants as operators keep them: added with an owner, named, with their standing limits."""

from __future__ import annotations

import zoneinfo
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.errors import InvalidRequest
from leasing.membership import closing, tenants
from leasing.models import Tenant
from portal.middleware import PersonRequest
from portal.pages.actions import number_in, operating, text_in

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


@operating("keep-tenants")
def add(request: PersonRequest) -> str:
    tenant = tenants.add_tenant(
        actor=request.actor,
        slug=text_in(request, "slug", 50),
        facts=_given(request),
        owner=text_in(request, "owner", 150),
        now=timezone.now(),
    )
    return _("%(team)s is added.") % {"team": tenant}


@operating("keep-tenants")
def change(request: PersonRequest, slug: str) -> str:
    tenant = tenants.change_tenant(actor=request.actor, slug=slug, facts=_given(request), now=timezone.now())
    return _("%(team)s is changed; what is booked stays.") % {"team": tenant}


@operating("keep-tenants")
def appoint(request: PersonRequest, slug: str) -> str:
    username = text_in(request, "owner", 150)
    person = tenants.appoint_owner(actor=request.actor, slug=slug, username=username, now=timezone.now())
    return _("%(person)s is an owner of the team.") % {"person": person}


@operating("keep-tenants")
def reopen(request: PersonRequest, slug: str) -> str:
    tenant = closing.reopen_tenant(actor=request.actor, slug=slug, now=timezone.now())
    return _("%(team)s is open again.") % {"team": tenant}


def _given(request: PersonRequest) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": text_in(request, "name", 100),
        "timezone": text_in(request, "timezone", 64),
    }
    for name in LIMITS:
        given = number_in(request, name)
        if given is None or given > LARGEST:
            raise InvalidRequest(_("Limits are whole numbers."), field=name)
        facts[name] = given
    return facts
