"""One host: is it in order, what is on it, its way to the broker, its keys, its end; and letting one in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from hosts.models import Host, HostCheckUp
from hosts.protocol.broker import broker_user
from leasing import fleet, policy
from leasing.apart import without_former_slices
from leasing.enrolment import accounts, changes, tokens
from leasing.errors import DomainError, InvalidRequest
from leasing.imaging.copies import known_copies
from leasing.models import AuditEntry
from leasing.timing import HOST_SILENT_AFTER
from portal.checkups import by_subject, show
from portal.middleware import PersonRequest
from portal.pages import slices
from portal.pages.actions import action
from portal.pages.history import happening

SHOWN_ENTRIES = 50
HOURS = (1, 24, 72, 168)


@login_required
@require_safe
def host(request: PersonRequest, host_id: UUID) -> HttpResponse:
    """A host's own page."""
    policy.require_fleet_reader(request.user)
    found = fleet.known_host(host_id)
    return render(request, "fleet/host.html", _page(request, found))


@login_required
@require_http_methods(["POST"])
def new_keys(request: PersonRequest, host_id: UUID) -> HttpResponse:
    """Make a token for the host, and show it this once."""
    policy.require_operator(request.user)
    found = fleet.present_host(host_id)
    _token, text = tokens.make_token_for(
        actor=request.actor, host_id=host_id, lifetime=_lifetime(request), now=timezone.now()
    )
    return render(request, "fleet/host.html", _page(request, found) | {"new_token": text})


@action
def look_again(request: PersonRequest, host_id: UUID) -> str:
    found = changes.look_again(actor=request.actor, host_id=host_id, now=timezone.now())
    messages.success(
        request, _("%(host)s is asked to look again; it reports when it can.") % {"host": found.name}
    )
    return reverse("host", args=[host_id])


@action
def rename(request: PersonRequest, host_id: UUID) -> str:
    name = request.POST.get("name", "").strip()
    found = changes.rename_host(actor=request.actor, host_id=host_id, name=name, now=timezone.now())
    messages.success(request, _("The host is called %(host)s now.") % {"host": found.name})
    return reverse("host", args=[host_id])


@action
def make_account(request: PersonRequest, host_id: UUID) -> str:
    accounts.remake_account(actor=request.actor, host_id=host_id, now=timezone.now())
    messages.success(request, _("The broker knows the account."))
    return reverse("host", args=[host_id])


@action
def retire(request: PersonRequest, host_id: UUID) -> str:
    policy.require_operator(request.user)
    if request.POST.get("sure") != "yes":
        raise InvalidRequest(_("Say that you are sure: it cannot be undone."), field="sure")
    found = changes.retire_host(actor=request.actor, host_id=host_id, now=timezone.now())
    messages.success(request, _("%(host)s is retired.") % {"host": found.name})
    return reverse("host", args=[host_id])


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def enrol(request: PersonRequest) -> HttpResponse:
    """Let a host in: a token is made here, and used there."""
    policy.require_operator(request.user)
    context: dict[str, Any] = {"name": request.POST.get("name", "").strip()}
    status = 200
    if request.method == "POST":
        try:
            context["new_token"] = tokens.make_token(
                actor=request.actor, name=context["name"], lifetime=_lifetime(request), now=timezone.now()
            )[1]
        except DomainError as error:
            context["faults"], status = [error.message, error.hint], 400
    context |= {
        "open_tokens": tokens.open_tokens(now=timezone.now()),
        "portal": settings.SITE_URL,
        "hours": HOURS,
        "retired": Host.objects.exclude(retired_at=None).order_by("-retired_at"),
    }
    return render(request, "fleet/enrol.html", context, status=status)


@action
def withdraw_token(request: PersonRequest, token_id: int) -> str:
    token = tokens.withdraw_token(actor=request.actor, token_id=token_id, now=timezone.now())
    messages.success(request, _("The token for %(name)s lets nobody in any more.") % {"name": token.name})
    return reverse("enrol-host")


def _page(request: PersonRequest, found: Host) -> dict[str, Any]:
    now = timezone.now()
    may_operate = policy.is_operator(request.user)
    gpus = [f"gpu:{gpu.pk}" for gpu in found.gpus.all()]
    errors = Q(action="gpu.guest-error", subject__in=gpus)
    entries = AuditEntry.objects.filter(Q(subject=f"host:{found.pk}") | errors).order_by("-id")
    return {
        "host": found,
        "silent": found.last_seen_at is None or now - found.last_seen_at > HOST_SILENT_AFTER,
        "gpus": without_former_slices(found.gpus.select_related("model")),
        "usb_devices": found.usb_devices.order_by("port"),
        "copies": known_copies().filter(host=found),
        "life": [happening(entry) for entry in entries[:SHOWN_ENTRIES]],
        "may_operate": may_operate,
        "may_change": may_operate and found.retired_at is None,
        "account": broker_user(found.account),
        "lines": accounts.account_lines(found) if may_operate else [],
        "portal_makes_accounts": accounts.may_administer(),
        "portal": settings.SITE_URL,
        "hours": HOURS,
        **slices.of_host(found),
        **_check_up(request, found),
    }


def _check_up(request: PersonRequest, found: Host) -> dict[str, Any]:
    """With the filter “only problems”, unless there are none to look at or all are asked for."""
    kept = HostCheckUp.objects.filter(host=found).select_related("host").first()
    if kept is None:
        return {"check_up": None}
    told = show(kept)
    wanted = request.GET.get("checks")
    only_problems = wanted == "problems" or (wanted != "all" and bool(told.failed or told.warned))
    names = {card.address: card.name for card in found.found_cards.present()}
    parts = by_subject(told.checks, only_problems=only_problems)
    return {
        "check_up": told,
        "only_problems": only_problems,
        "parts": [(subject, names.get(subject, ""), checks) for subject, checks in parts],
    }


def _lifetime(request: PersonRequest) -> timedelta:
    hours = request.POST.get("hours", "")
    return timedelta(hours=int(hours) if hours in map(str, HOURS) else 24)
