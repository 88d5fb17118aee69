"""A host's cards that can be divided, and those that are: what an operator sees of them and may order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from hosts.models import Division, Gpu, GpuModel, Host
from leasing import policy, slices
from leasing.cards import card_at
from leasing.errors import InvalidRequest
from leasing.states.gpu import GpuState
from portal.middleware import PersonRequest
from portal.pages.actions import action

MIB = 2**20
KINDS: dict[str, str | Promise] = {
    "vf": gettext_lazy("virtual functions"),
    "vgpu": gettext_lazy("vGPUs"),
    "mig-vgpu": gettext_lazy("vGPUs backed by MIG"),
}


@dataclass(frozen=True)
class DividedCard:
    """A whole card: how it is or was last divided, its slices, and the ways to divide it now."""

    gpu: Gpu
    division: Division | None
    slices: list[Gpu]
    ways: list[dict[str, Any]]

    @property
    def can_divide(self) -> bool:
        return bool(self.ways) and not self.is_open and self.gpu.state == GpuState.CLEAN

    @property
    def is_open(self) -> bool:
        return self.division is not None and self.division.state in Division.OPEN

    @property
    def stands(self) -> bool:
        return self.division is not None and self.division.state == Division.State.STANDS

    @property
    def failure(self) -> str:
        """Why what was ordered last did not come about."""
        return self.division.reason if self.division else ""


def of_host(host: Host) -> dict[str, Any]:
    """For the host's page."""
    whole = host.gpus.filter(parent=None).select_related("model", "host")
    cards = [_card(gpu) for gpu in whole.prefetch_related("slices__model", "divisions__model")]
    shown = [card for card in cards if card.ways or card.is_open]
    return {"divided": shown, "slice_models": GpuModel.objects.all() if shown else []}


def _card(gpu: Gpu) -> DividedCard:
    found = card_at(gpu)
    last = max(gpu.divisions.all(), key=lambda each: each.pk, default=None)
    is_open = last is not None and last.state in Division.OPEN
    ways = [
        {**way, "kind": KINDS.get(way["kind"], way["kind"]), "memory_mib": way["memory_bytes"] // MIB}
        for way in (found.profiles if found and not is_open else [])
    ]
    slices_now = sorted(gpu.slices.all(), key=lambda each: each.address) if is_open else []
    return DividedCard(gpu=gpu, division=last, slices=slices_now, ways=ways)


@action
def divide(request: PersonRequest, gpu_id: UUID) -> str:
    policy.require_operator(request.user)
    count, model_id = _number(request, "count"), _number(request, "model")
    division = slices.divide_gpu(
        actor=request.actor,
        gpu_id=gpu_id,
        profile=request.POST.get("profile", "")[:200],
        count=count,
        model_id=model_id,
        now=timezone.now(),
    )
    messages.success(
        request,
        _("%(gpu)s is being divided. Each slice is offered once its intake has proven it clean.")
        % {"gpu": division.gpu},
    )
    return reverse("host", args=[division.gpu.host_id])


@action
def undivide(request: PersonRequest, gpu_id: UUID) -> str:
    division = slices.undivide_gpu(actor=request.actor, gpu_id=gpu_id, now=timezone.now())
    messages.success(
        request,
        _("%(gpu)s is being made whole. It is scrubbed as a whole before it is offered.")
        % {"gpu": division.gpu},
    )
    return reverse("host", args=[division.gpu.host_id])


def _number(request: PersonRequest, field: str) -> int:
    text = request.POST.get(field, "")
    if not text.isdecimal() or len(text) > 9:
        raise InvalidRequest(_("Choose how the card is divided: profile, how many, model."), field=field)
    return int(text)
