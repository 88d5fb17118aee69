"""What a host says it has, set against what we believe."""

from __future__ import annotations

from datetime import datetime

import msgspec
from django.db.models import QuerySet

from hosts.models import FoundCard, Gpu, Host
from hosts.protocol import messages as m
from leasing.actors import Actor
from leasing.models import Lease
from leasing.reasons import because
from leasing.reports import scrubs
from leasing.states.gpu import GpuState
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.timing import RECONCILE_LIMIT
from leasing.transitions import TransitionRefused, apply_lease_event

_OUT_OF_SERVICE = (GpuState.MISSING, GpuState.MAINTENANCE, GpuState.QUARANTINED)
_FACTS = ("cpu_count", "memory_mib", "disk_gib", "kernel", "worker_version", "simulated")


def take(host: Host, event: m.Inventory, *, at: datetime, now: datetime) -> str:
    """Store the inventory. A GPU that vanished or changed its identity leaves service at once.

    `at` is when the host looked around: a lease whose machine it should have seen by then has failed.
    """
    for fact in _FACTS:
        setattr(host, fact, getattr(event, fact))
    host.inventory_at = now
    host.save(update_fields=[*_FACTS, "inventory_at"])
    _fail_lost_machines(host, event, at=at, now=now)
    cards = {card.address: card for card in event.cards}
    _store_cards(host, cards)
    for gpu in Gpu.objects.filter(host=host).exclude(state__in=_OUT_OF_SERVICE).order_by("id"):
        _compare(gpu, host, cards.get(gpu.address), now=now)
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


def _store_cards(host: Host, cards: dict[str, m.CardFacts]) -> None:
    host.found_cards.exclude(address__in=cards).delete()
    for card in cards.values():
        FoundCard.objects.update_or_create(
            host=host,
            address=card.address,
            defaults={
                "functions": list(card.functions),
                "iommu_group": card.iommu_group,
                "name": card.name,
                "memory_mib": card.memory_bytes // 2**20,
                "numa_node": card.numa_node,
                "fingerprint": msgspec.to_builtins(card.fingerprint),
                "refusal": card.refusal,
            },
        )


def _compare(gpu: Gpu, host: Host, card: m.CardFacts | None, *, now: datetime) -> None:
    reason = _objection(gpu, card)
    if not reason:
        return
    try:
        scrubs.take_out(gpu, host, missing=card is None, reason=reason, at=now, now=now)
    except TransitionRefused:
        return  # an operator has just taken it out


def _objection(gpu: Gpu, card: m.CardFacts | None) -> str:
    if card is None:
        return "The host no longer sees it."
    if gpu.fingerprint and msgspec.to_builtins(card.fingerprint) != gpu.fingerprint:
        return "Its identity or firmware has changed."
    return card.refusal if gpu.state == GpuState.CLEAN else ""
