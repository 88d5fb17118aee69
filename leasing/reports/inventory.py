"""What a host says it has, set against what we believe."""

from __future__ import annotations

from datetime import datetime

import msgspec
from django.utils.translation import gettext as _

from hosts.models import FoundCard, Gpu, Host
from hosts.protocol import messages as m
from leasing.reports import scrubs
from leasing.states.gpu import GpuState


def take(host: Host, event: m.Inventory, *, now: datetime) -> str:
    """Store the inventory. A GPU that vanished or changed its identity leaves service at once."""
    host.cpu_count, host.memory_mib, host.disk_gib = event.cpu_count, event.memory_mib, event.disk_gib
    host.kernel, host.worker_version, host.simulated = event.kernel, event.worker_version, event.simulated
    host.inventory_at = now
    host.save()
    cards = {card.address: card for card in event.cards}
    _store_cards(host, cards)
    for gpu in Gpu.objects.filter(host=host).order_by("id"):
        _compare(gpu, host, cards.get(gpu.address), now=now)
    return "applied"


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
    if gpu.state in (GpuState.MISSING, GpuState.MAINTENANCE, GpuState.QUARANTINED):
        return
    if card is None:
        scrubs.take_out(gpu, host, missing=True, reason=_("The host no longer sees it."), at=now, now=now)
    elif gpu.fingerprint and msgspec.to_builtins(card.fingerprint) != gpu.fingerprint:
        scrubs.take_out(
            gpu, host, missing=False, reason=_("Its identity or firmware has changed."), at=now, now=now
        )
    elif card.refusal and gpu.state == GpuState.CLEAN:
        scrubs.take_out(gpu, host, missing=False, reason=card.refusal, at=now, now=now)
