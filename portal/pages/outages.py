"""Outages: operators record when something of ours was of no use; what lies in it is free, or credited."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe

from hosts.models import Gpu, GpuModel, Host
from leasing import policy
from leasing.billing.outages import Recorded, preview_outage, record_outage, withdraw_outage
from leasing.billing.subjects import outage_subject
from leasing.errors import InvalidRequest
from leasing.models import Outage
from portal.middleware import PersonRequest
from portal.pages.actions import action
from portal.pages.booking_form import chosen_end

SHOWN = 100


@login_required
@require_safe
def outages(request: PersonRequest) -> HttpResponse:
    policy.require_fleet_reader(request.user)
    return _page(request)


@login_required
@require_POST
def add_outage(request: PersonRequest) -> HttpResponse:
    """What it would do is shown first; with “sure” it is recorded."""
    policy.require_operator(request.user)
    kind, _colon, key = request.POST.get("what", "").partition(":")
    try:
        asked: dict[str, Any] = {
            "actor": request.actor,
            "what": outage_subject(kind, key),
            "starts_at": _moment(request, "starts_at"),
            "ends_at": _moment(request, "ends_at"),
            "reason": request.POST.get("reason", ""),
            "now": timezone.now(),
        }
        if "sure" not in request.POST:
            return _page(request, preview=preview_outage(**asked))
        _say(request, record_outage(**asked))
    except InvalidRequest as error:
        messages.error(request, " ".join(filter(None, (str(error.message), str(error.hint)))))
    return redirect("outages")


@action
def take_back_outage(request: PersonRequest, outage_id: int) -> str:
    policy.require_operator(request.user)
    reason = request.POST.get("reason", "")
    withdraw_outage(actor=request.actor, outage_id=outage_id, reason=reason, now=timezone.now())
    messages.success(request, _("Withdrawn. What lay in it is billed again."))
    return reverse("outages")


def _page(request: PersonRequest, *, preview: Recorded | None = None) -> HttpResponse:
    found = Outage.objects.select_related("host", "gpu__host", "model", "recorded_by", "withdrawn_by")
    context = {
        "outages": found[:SHOWN],
        "hosts": Host.objects.order_by("name"),
        "gpus": Gpu.objects.select_related("host", "model").order_by("host__name", "address"),
        "models": GpuModel.objects.order_by("name"),
        "may_operate": policy.is_operator(request.user),
        "preview": preview,
        "asked": request.POST,
    }
    return render(request, "fleet/outages.html", context)


def _say(request: PersonRequest, recorded: Recorded) -> None:
    words = ngettext(
        "Recorded. %(count)d workstation lay in it.",
        "Recorded. %(count)d workstations lay in it.",
        recorded.leases,
    ) % {"count": recorded.leases}
    if recorded.credit_notes:
        numbers = ", ".join(note.number for note in recorded.credit_notes)
        words += " " + _("Credited: %(numbers)s") % {"numbers": numbers}
    messages.success(request, words)


def _moment(request: PersonRequest, name: str) -> datetime:
    try:
        return chosen_end(request.POST.get(name, ""))
    except InvalidRequest as error:
        raise InvalidRequest(_("Say from when until when."), field=name) from error
