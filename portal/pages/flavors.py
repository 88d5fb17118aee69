"""Flavors as operators keep them: added, described anew, retired, offered again."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from hosts.models import GpuModel
from leasing import flavors as service
from leasing import policy
from leasing.errors import InvalidRequest
from leasing.models import Flavor
from portal.middleware import PersonRequest
from portal.pages.actions import number_in, operating, text_in


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


@operating("flavors")
def add(request: PersonRequest) -> str:
    model = GpuModel.objects.filter(slug=request.POST.get("model", "")).first()
    if model is None:
        raise InvalidRequest(_("There is no such GPU model."), field="model")
    facts = {
        "slug": text_in(request, "slug", 50),
        "model": model,
        "gpu_count": number_in(request, "gpu_count") or 0,
        **_given(request),
    }
    flavor = service.add_flavor(actor=request.actor, facts=facts, now=timezone.now())
    return _("%(flavor)s is added. It can be booked once it has a rate.") % {"flavor": flavor}


@operating("flavors")
def change(request: PersonRequest, slug: str) -> str:
    flavor = service.change_flavor(actor=request.actor, slug=slug, facts=_given(request), now=timezone.now())
    return _("%(flavor)s is changed.") % {"flavor": flavor}


@operating("flavors")
def retire(request: PersonRequest, slug: str) -> str:
    flavor = service.retire_flavor(actor=request.actor, slug=slug, now=timezone.now())
    return _("%(flavor)s is not offered any more; what is booked stays.") % {"flavor": flavor}


@operating("flavors")
def offer(request: PersonRequest, slug: str) -> str:
    flavor = service.offer_flavor(actor=request.actor, slug=slug, now=timezone.now())
    return _("%(flavor)s is offered again.") % {"flavor": flavor}


def _given(request: PersonRequest) -> dict[str, Any]:
    return {
        "name": text_in(request, "name", 100),
        "description": text_in(request, "description", 300),
        "numa": text_in(request, "numa", 20),
        "usb_devices": text_in(request, "usb_devices", 200).lower().split(),
    }
