"""Cards over time: which of those that a host reports were seen before, and what has become of them.

What counts as the same card is decided in docs/adr/0025-what-counts-as-the-same-card.md. A card's history is
its audit entries: first seen, moved, changed, vanished, came back.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from django.db.models import Q, QuerySet

from hosts.models import FoundCard, Gpu, Host
from hosts.protocol import messages as m
from leasing.actors import Actor
from leasing.audit.log import canonical, record
from leasing.locking import locked
from leasing.models import AuditEntry
from leasing.timing import HOST_SILENT_AFTER

# Of these only the first tells one card from another; the others are its firmware and how it is set.
IDENTITY, FIRMWARE = ("vendor_device", "subsystem", "serial"), ("firmware", "rom_sha256", "modes")


def remember_cards(host: Host, found: Sequence[m.CardFacts], *, now: datetime) -> None:
    """Note what the host sees now. Each card that is new, elsewhere, changed, gone or back is recorded."""
    known = [*locked(_known(host, found, now=now)).order_by("id")]
    pairs = [*_paired(host, found, known)]
    before = {row.pk: (row.host, row.address, row.fingerprint, row.gone_at) for _, row in pairs if row}
    for row in known:
        if row.pk not in before and row.host_id == host.pk and row.gone_at is None:
            row.gone_at = now
            row.save(update_fields=["gone_at"])
            _tell(row, host, now=now, action="card.vanish")
    # Cards that changed places pass through here: one slot has one card at any moment.
    FoundCard.objects.filter(pk__in=before).update(gone_at=now)
    for card, same in pairs:
        row = same or FoundCard(first_seen_at=now)
        _write(row, host, card)
        if same is None:
            _tell(row, host, now=now, action="card.seen", name=card.name)
        else:
            _tell_changes(row, host, before[row.pk], now=now)


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the parts of a fingerprint in which the two differ."""
    return [name for name in (*IDENTITY, *FIRMWARE) if before.get(name, "") != after.get(name, "")]


def told_changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The same with what was and what is, for an operator."""
    changed = changes(before, after)
    return "; ".join(f"{name} was {_short(before, name)}, is {_short(after, name)}" for name in changed)


def seal_of(fingerprint: dict[str, Any]) -> str:
    """A fingerprint in 16 characters: who accepts a changed card says with it what they have looked at."""
    return hashlib.sha256(canonical(fingerprint).encode()).hexdigest()[:16]


def card_at(gpu: Gpu) -> FoundCard | None:
    """What is in the GPU's slot now, or else its own card in another slot of the same host."""
    present = FoundCard.objects.present().filter(host_id=gpu.host_id)
    return present.filter(address=gpu.address).first() or present.filter(gpus=gpu).first()


def history_of(gpu: Gpu) -> QuerySet[AuditEntry]:
    """What happened to a GPU and to its card, the newest first."""
    subjects = [f"gpu:{gpu.pk}"] + ([f"card:{gpu.card_id}"] if gpu.card_id else [])
    return AuditEntry.objects.filter(subject__in=subjects).order_by("-id")


def _known(host: Host, found: Sequence[m.CardFacts], *, now: datetime) -> QuerySet[FoundCard]:
    """The host's own; and those that another host misses, or whose host is silent: one cannot take a card
    away from a host that sees it."""
    silent = Q(host__last_seen_at=None) | Q(host__last_seen_at__lt=now - HOST_SILENT_AFTER)
    free = Q(gone_at__isnull=False) | silent
    serials = [card.fingerprint.serial for card in found if _tells(card.fingerprint.serial)]
    elsewhere = Q(fingerprint__serial__in=serials) & free
    return FoundCard.objects.select_related("host").filter(Q(host=host) | elsewhere)


def _paired(
    host: Host, found: Sequence[m.CardFacts], known: list[FoundCard]
) -> Iterator[tuple[m.CardFacts, FoundCard | None]]:
    """Each card with the row that is the same card: by serial first, then by slot."""
    left = {row.pk: row for row in known}
    twice = {key for key, count in Counter(map(_key, found)).items() if count > 1}
    by_serial: dict[str, FoundCard] = {}
    for card in found:
        if (key := _key(card)) and key not in twice:
            same = [row for row in left.values() if _row_key(row) == key]
            if same:
                by_serial[card.address] = left.pop(min(same, key=lambda row: _distance(row, host, card)).pk)
    for card in found:
        row = by_serial.get(card.address) or _in_slot(host, card, left.values())
        if row is not None:
            left.pop(row.pk, None)
        yield card, row


def _in_slot(host: Host, card: m.CardFacts, rows: Iterable[FoundCard]) -> FoundCard | None:
    """One of the same kind that was last seen in this slot, unless two serials say that it is another."""
    seen = card.fingerprint
    same = [
        row
        for row in rows
        if (row.host_id, row.address) == (host.pk, card.address)
        and row.fingerprint.get("vendor_device") == seen.vendor_device
        and row.fingerprint.get("subsystem", "") == seen.subsystem
        and _agree(row.fingerprint.get("serial", ""), seen.serial)
    ]
    return max(same, key=lambda row: (row.gone_at is None, row.gone_at or row.first_seen_at), default=None)


def _agree(one: str, other: str) -> bool:
    return one == other or not (_tells(one) and _tells(other))


def _tells(serial: str) -> bool:
    """Whether it is a number of its own: makers leave it zero, or all ones."""
    return bool(serial.strip("0")) and bool(serial.lower().strip("f"))


def _key(card: m.CardFacts) -> str:
    return _serial_key(card.fingerprint.vendor_device, card.fingerprint.serial)


def _row_key(row: FoundCard) -> str:
    return _serial_key(row.fingerprint.get("vendor_device", ""), row.fingerprint.get("serial", ""))


def _serial_key(vendor_device: str, serial: str) -> str:
    return f"{vendor_device} {serial}" if _tells(serial) else ""


def _distance(row: FoundCard, host: Host, card: m.CardFacts) -> tuple[bool, bool, bool]:
    return (row.host_id != host.pk, row.address != card.address, row.gone_at is not None)


def _write(row: FoundCard, host: Host, card: m.CardFacts) -> None:
    row.host, row.address, row.gone_at = host, card.address, None
    row.functions, row.iommu_group, row.numa_node = list(card.functions), card.iommu_group, card.numa_node
    row.name, row.memory_mib, row.refusal = card.name, card.memory_bytes // 2**20, card.refusal
    row.fingerprint = msgspec.to_builtins(card.fingerprint)
    row.details = msgspec.to_builtins(card.details)
    row.part = msgspec.to_builtins(card.part) if card.part else {}
    row.profiles = msgspec.to_builtins(card.profiles)
    row.save()


Before = tuple[Host, str, dict[str, Any], datetime | None]


def _tell_changes(row: FoundCard, host: Host, before: Before, *, now: datetime) -> None:
    was_on, was_at, fingerprint, gone_at = before
    if gone_at is not None:
        _tell(row, host, now=now, action="card.return", gone_at=gone_at)
    if (was_on.pk, was_at) != (host.pk, row.address):
        places = f"{was_on.name} {was_at} → {host.name} {row.address}"
        _tell(row, host, now=now, action="card.move", reason=places)
    if changed := changes(fingerprint, row.fingerprint):
        facts = {
            "reason": told_changes(fingerprint, row.fingerprint),
            "before": fingerprint,
            "after": row.fingerprint,
        }
        if set(changed) & set(IDENTITY):
            _tell(row, host, now=now, action="card.change", **facts)
        else:
            _tell(row, host, now=now, action="card.firmware", **facts)


def _tell(row: FoundCard, host: Host, *, now: datetime, action: str, **detail: Any) -> None:
    facts: dict[str, Any] = {"host": host.name, "address": row.address, **detail}
    record(action=action, actor=Actor.of_host(host), subject=f"card:{row.pk}", now=now, **facts)


def _short(fingerprint: dict[str, Any], name: str) -> str:
    value = str(fingerprint.get(name, "")) or "unknown"
    return f"{value[:12]}…" if len(value) > 40 else value
