"""How GPUs are cleaned, model by model: shown to those who see the fleet, changed by operators."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from hosts.models import GpuModel
from leasing import policy
from leasing.errors import InvalidRequest
from leasing.scrub_policy import set_scrub_policy
from portal.middleware import PersonRequest
from portal.pages.actions import action
from portal.pages.words import METHODS


@login_required
@require_safe
def models(request: PersonRequest) -> HttpResponse:
    policy.require_fleet_reader(request.user)
    context = {
        "models": GpuModel.objects.order_by("name"),
        "methods": METHODS,
        "read_backs": GpuModel.ReadBack.choices,
        "may_operate": policy.is_operator(request.user),
    }
    return render(request, "fleet/models.html", context)


@action
def change_scrub_policy(request: PersonRequest, slug: str) -> str:
    policy.require_operator(request.user)
    model = set_scrub_policy(
        actor=request.actor,
        model=slug,
        methods=request.POST.get("methods", "").replace(",", " ").split(),
        required_reach_permille=_permille(request.POST.get("reach", "")),
        read_back=request.POST.get("read_back", ""),
        now=timezone.now(),
    )
    messages.success(
        request, _("From their next cleaning on, GPUs of %(model)s are cleaned so.") % {"model": model}
    )
    return reverse("gpu-models")


def _permille(percent: str) -> int:
    """Per cent with at most one decimal place, as people write it."""
    try:
        permille = Decimal(percent.strip().replace(",", ".")) * 10
    except InvalidOperation:
        permille = Decimal("NaN")
    if not permille.is_finite() or permille != permille.to_integral_value():
        raise InvalidRequest(_("Give the reach in per cent, such as 95 or 99.5."), field="reach")
    return int(min(permille, Decimal(10_000)))
