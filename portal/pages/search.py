"""Search from every page: workstations, people, teams and the rest, as far as the reader may see them."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.finding import LONGEST, SHORTEST, find_all
from portal.middleware import PersonRequest
from portal.pages.context import roles_in


@login_required
@require_safe
def search(request: PersonRequest) -> HttpResponse:
    """Links lead only where the reader may go; what has no page for them is told without one."""
    person, roles = request.user, roles_in(request, request.user)
    words = request.GET.get("q", "").replace("\x00", "").strip()[:LONGEST]
    context = {
        "words": words,
        "too_short": bool(words) and len(words) < SHORTEST and not words.isdecimal(),
        "finds": find_all(person, roles, words, now=timezone.now()),
        "longest": LONGEST,
        "led": {tenant.pk for tenant, names in roles.items() if names & {"owner", "approver"}},
        "may_book": any("member" in names for names in roles.values()),
        "reads_fleet": policy.reads_fleet(person),
        "audits": policy.is_auditor(person),
    }
    return render(request, "search.html", context)
