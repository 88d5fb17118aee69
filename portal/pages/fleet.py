"""The fleet: hosts, their GPUs by NUMA node, cards that were found, and the evidence of each GPU."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import Prefetch, Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from hosts.models import FoundCard, Gpu, GpuModel, Host
from leasing import fleet as service
from leasing import policy
from leasing.apart import may_serve, without_former_slices
from leasing.cards import card_at, history_of, seal_of
from leasing.errors import InvalidRequest, NotVisible
from leasing.fleet_search import ATTENTION, count_gpus, count_hosts, find_hosts, gpus_with_next_hold
from leasing.maintenance.service import open_closures
from leasing.maintenance.standing import Standing, standings_of
from leasing.models import Closure
from leasing.packing import room_now
from leasing.states.gpu import TRANSITIONS, GpuEvent, GpuState
from leasing.timing import HOST_SILENT_AFTER
from portal.middleware import PersonRequest
from portal.pages.actions import action, back_of
from portal.pages.cards import change_rows, detail_rows, identity_rows
from portal.pages.history import happening
from portal.pages.looks import GPU_LOOKS

HOSTS = 20
SHOWN_SCRUBS = 20
SHOWN_ENTRIES = 50


@login_required
@require_safe
def fleet(request: PersonRequest) -> HttpResponse:
    return render(request, "fleet/fleet.html", _fleet(request))


@login_required
@require_safe
def fleet_live(request: PersonRequest) -> HttpResponse:
    return render(request, "fleet/_hosts.html", _fleet(request))


@login_required
@require_safe
def gpu(request: PersonRequest, gpu_id: UUID) -> HttpResponse:
    """A card's life."""
    policy.require_fleet_reader(request.user)
    now = timezone.now()
    found = Gpu.objects.select_related("host", "model").filter(pk=gpu_id).first()
    if found is None:
        raise NotVisible(_("There is no such GPU."))
    card = card_at(found)
    changed = change_rows(found.fingerprint, card.fingerprint) if card and found.fingerprint else []
    context = {
        "gpu": found,
        "card": card,
        "details": detail_rows(card.details) if card else [],
        "identity": identity_rows(found.fingerprint),
        "changes": changed,
        "seal": seal_of(card.fingerprint) if card and changed else "",
        "scrubs": found.scrubs.select_related("lease")[:SHOWN_SCRUBS],
        "life": [happening(entry) for entry in history_of(found)[:SHOWN_ENTRIES]],
        "leases": service.leases_on(found, now=now),
        "closed": standings_of(_closures_of(found, now), now=now),
        "may_operate": policy.is_operator(request.user),
        "may_readmit": (GpuState(found.state), GpuEvent.READMIT) in TRANSITIONS and may_serve(found),
        "may_withdraw": (GpuState(found.state), GpuEvent.WITHDRAW) in TRANSITIONS,
    }
    return render(request, "fleet/gpu.html", context)


@action
def admit_card(request: PersonRequest, card_id: int) -> str:
    policy.require_operator(request.user)
    model_id = request.POST.get("model", "")
    if not model_id.isdecimal() or len(model_id) > 9:
        raise InvalidRequest(_("Choose the model of this card."), field="model")
    admitted = service.admit_gpu(
        actor=request.actor, card_id=card_id, model_id=int(model_id), now=timezone.now()
    )
    messages.success(
        request,
        _("%(gpu)s is in service. It is offered once its intake has proven it clean.") % {"gpu": admitted},
    )
    return reverse("fleet")


@action
def readmit(request: PersonRequest, gpu_id: UUID) -> str:
    accepted = request.POST.get("accepted", "")[:16]
    service.readmit_gpu(actor=request.actor, gpu_id=gpu_id, accepted=accepted, now=timezone.now())
    messages.success(
        request, _("Intake follows: reset, scrub, verify. It is offered again only if that passes.")
    )
    return back_of(request)


@action
def withdraw(request: PersonRequest, gpu_id: UUID) -> str:
    policy.require_operator(request.user)
    reason = request.POST.get("reason", "").strip()
    if not reason or len(reason) > 200:
        raise InvalidRequest(
            _("Say why in a few words; whoever comes next will want to know."), field="reason"
        )
    service.withdraw_gpu(actor=request.actor, gpu_id=gpu_id, reason=reason, now=timezone.now())
    messages.success(request, _("The GPU is in maintenance. Readmit it when you are done."))
    return back_of(request)


def _fleet(request: PersonRequest) -> dict[str, Any]:
    policy.require_fleet_reader(request.user)
    now = timezone.now()
    name, show = request.GET.get("name", "").strip()[:100], request.GET.get("show", "")
    if show not in ("", ATTENTION, *GpuState):
        show = ""
    total, odd = count_hosts(now=now)
    paginator = Paginator(_hosts(name, show, now), HOSTS)
    if not (name or show):
        paginator.count = total
    page = paginator.get_page(request.GET.get("page"))
    models, counts = list(GpuModel.objects.all()), count_gpus()
    return {
        "page": page,
        "hosts": _rows(list(page), now=now),
        "room": room_now(models, now=now),
        "models": models,
        "may_operate": policy.is_operator(request.user),
        "now": now,
        "name": name,
        "show": show,
        "attention": odd,
        "states": [(state, GPU_LOOKS[state], counts[state]) for state in GpuState if state in counts],
    }


def _hosts(name: str, show: str, now: datetime) -> QuerySet[Host]:
    hosts = service.accepting_hosts(find_hosts(name=name, show=show, now=now), now=now)
    return (
        hosts.select_related("check_up")
        .defer("check_up__checks")
        .prefetch_related(
            Prefetch("gpus", without_former_slices(gpus_with_next_hold(now=now))),
            Prefetch("found_cards", FoundCard.objects.present()),
        )
    )


def _rows(hosts: list[Host], *, now: datetime) -> list[dict[str, Any]]:
    closed: dict[UUID, list[Standing]] = defaultdict(list)
    for standing in standings_of(open_closures(now=now).filter(host__in=hosts), now=now):
        closed[standing.closure.host_id].append(standing)
    return [_row(host, closed[host.pk]) for host in hosts]


def _closures_of(gpu: Gpu, now: datetime) -> QuerySet[Closure]:
    return open_closures(now=now).filter(Q(gpu=None) | Q(gpu=gpu), host=gpu.host_id)


def _row(host: Host, closed: list[Standing]) -> dict[str, Any]:
    in_service = {gpu.address for gpu in host.gpus.all()}
    gpus = sorted(host.gpus.all(), key=lambda gpu: (gpu.numa_node, gpu.address))
    cards = [card for card in host.found_cards.all() if card.address not in in_service]
    return {
        "host": host,
        "closed": closed,
        "closed_gpus": {one.closure.gpu_id for one in closed if one.in_force and one.closure.gpu_id},
        "silent": host.last_seen_at is None or timezone.now() - host.last_seen_at > HOST_SILENT_AFTER,
        "nodes": [(node, list(members)) for node, members in groupby(gpus, key=lambda gpu: gpu.numa_node)],
        "admissible": [card for card in cards if not card.refusal],
        "refused": [card for card in cards if card.refusal],
    }
