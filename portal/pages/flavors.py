"""Flavors as operators keep them: added, described anew, retired, offered again."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from hosts.models import GpuModel
from leasing import flavors as service
from leasing import policy
from leasing.errors import InvalidRequest
from leasing.models import Flavor
from portal.middleware import PersonRequest
from portal.pages.actions import action


@login_required
@require_safe
def flavors(request: PersonRequest) -> HttpResponse:
    policy.require_fleet_reader(request.user)
    context = {
        "flavors": service.flavors_in_use(),
        "models": GpuModel.objects.order_by("name"),
        "numas": Flavor.Numa.choices,
        "may_operate": policy.is_operator(request.user),
    }
    return render(request, "fleet/flavors.html", context)


@action
def add(request: PersonRequest) -> str:
    policy.require_operator(request.user)
    model = GpuModel.objects.filter(slug=request.POST.get("model", "")).first()
    count = request.POST.get("gpu_count", "")
    if model is None:
        raise InvalidRequest(_("There is no such GPU model."), field="model")
    facts = {
        "slug": request.POST.get("slug", "").strip()[:51],
        "model": model,
        "gpu_count": int(count) if count.isascii() and count.isdecimal() and len(count) < 4 else 0,
        **_given(request),
    }
    flavor = service.add_flavor(actor=request.actor, facts=facts, now=timezone.now())
    messages.success(
        request, _("%(flavor)s is added. It can be booked once it has a rate.") % {"flavor": flavor}
    )
    return reverse("flavors")


@action
def change(request: PersonRequest, slug: str) -> str:
    policy.require_operator(request.user)
    flavor = service.change_flavor(actor=request.actor, slug=slug, facts=_given(request), now=timezone.now())
    messages.success(request, _("%(flavor)s is changed.") % {"flavor": flavor})
    return reverse("flavors")


@action
def retire(request: PersonRequest, slug: str) -> str:
    policy.require_operator(request.user)
    flavor = service.retire_flavor(actor=request.actor, slug=slug, now=timezone.now())
    messages.success(
        request, _("%(flavor)s is not offered any more; what is booked stays.") % {"flavor": flavor}
    )
    return reverse("flavors")


@action
def offer(request: PersonRequest, slug: str) -> str:
    policy.require_operator(request.user)
    flavor = service.offer_flavor(actor=request.actor, slug=slug, now=timezone.now())
    messages.success(request, _("%(flavor)s is offered again.") % {"flavor": flavor})
    return reverse("flavors")


def _given(request: PersonRequest) -> dict[str, Any]:
    return {
        "name": request.POST.get("name", "").strip()[:101],
        "description": request.POST.get("description", "").strip()[:301],
        "numa": request.POST.get("numa", "")[:20],
        "usb_devices": request.POST.get("usb_devices", "")[:200].lower().split(),
    }
