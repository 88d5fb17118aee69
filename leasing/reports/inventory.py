"""What a host says it has, set against what we believe."""

from __future__ import annotations

from datetime import datetime

import msgspec
from django.db.models import QuerySet

from hosts.models import Gpu, Host, StoragePool
from hosts.protocol import messages as m
from leasing import devices, slices
from leasing.actors import Actor
from leasing.cards import card_at, remember_cards, told_changes
from leasing.models import Lease
from leasing.openings.upkeep import refresh_host
from leasing.reasons import because
from leasing.reports import scrubs
from leasing.states.gpu import GpuState
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.timing import RECONCILE_LIMIT
from leasing.transitions import TransitionRefused, apply_lease_event

_OUT_OF_SERVICE = (GpuState.MISSING, GpuState.MAINTENANCE, GpuState.QUARANTINED)
_FACTS = ("cpu_count", "memory_mib", "disk_gib", "kernel", "worker_version", "simulated", "reads_homes")


def take(host: Host, event: m.Inventory, *, at: datetime, now: datetime) -> str:
    """Store the inventory. A GPU that vanished or changed its identity leaves service at once.

    `at` is when the host looked around: a lease whose machine it should have seen by then has failed.
    """
    for fact in _FACTS:
        setattr(host, fact, getattr(event, fact))
    pool_before = host.pool_id
    host.pool = StoragePool.objects.get_or_create(name=event.pool)[0] if event.pool else host.pool
    host.inventory_at = now
    host.save(update_fields=[*_FACTS, "inventory_at", "pool"])
    _fail_lost_machines(host, event, at=at, now=now)
    cards = {card.address: card for card in event.cards}
    remember_cards(host, event.cards, now=now)
    slices.admit_slices(host, now=now)
    came_back = devices.take_devices(host, event.usb, now=now)
    for gpu in Gpu.objects.filter(host=host).exclude(state__in=_OUT_OF_SERVICE).order_by("id"):
        _compare(gpu, host, cards.get(gpu.address), now=now)
    if host.pool_id != pool_before or came_back:
        # For those who wait for it with what lies in that pool, or is back, it is as if it had come free.
        refresh_host(host.pk, now, None)
    return "applied"


def lost_machines(host: Host, event: m.Inventory, *, at: datetime) -> QuerySet[Lease]:
    """Leases that were active on the host well before it looked around, and whose machine it did not see."""
    seen = [machine.lease_id for machine in event.machines if machine.lease_id]
    active = Lease.objects.filter(host=host, state=LeaseState.ACTIVE, active_at__lt=at - RECONCILE_LIMIT)
    return active.exclude(pk__in=seen)


def _fail_lost_machines(host: Host, event: m.Inventory, *, at: datetime, now: datetime) -> None:
    for lease in lost_machines(host, event, at=at).order_by("id"):
        try:
            apply_lease_event(
                lease_id=lease.pk,
                event=LeaseEvent.FAIL,
                actor=Actor.of_host(host),
                effective_at=at,
                now=now,
                reason=because("machine-lost"),
            )
        except TransitionRefused:
            continue  # it has just ended otherwise


def _compare(gpu: Gpu, host: Host, card: m.CardFacts | None, *, now: datetime) -> None:
    try:
        if reason := _objection(gpu, card):
            scrubs.take_out(gpu, host, missing=card is None, reason=reason, at=now, now=now)
        else:
            scrubs.distrust_if_restarted(gpu, host, now=now)
    except TransitionRefused:
        return  # an operator has just taken it out


def _objection(gpu: Gpu, card: m.CardFacts | None) -> str:
    if card is None:
        found = card_at(gpu)
        return f"Its card is at {found.address} now." if found else "The host no longer sees it."
    seen = msgspec.to_builtins(card.fingerprint)
    if gpu.fingerprint and seen != gpu.fingerprint:
        return f"Its identity or firmware has changed: {told_changes(gpu.fingerprint, seen)}."
    return card.refusal if gpu.state == GpuState.CLEAN else ""
