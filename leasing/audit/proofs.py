"""Inclusion proofs: what shows to anyone who trusts a signed head that entries are in the log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from leasing.audit.anchor import Head
from leasing.audit.merkle import TILE_HEIGHT
from leasing.audit.tiles import Tiles
from leasing.models import AuditLeaf, AuditNode, TreeHead


class NotProvable(LookupError):
    """An entry does not exist or is not sealed under a head yet."""


@dataclass(frozen=True)
class Proof:
    """An entry is leaf `index` of the log that the head signs; `path` is as in RFC 6962, in hex."""

    text: str
    index: int
    path: list[str]
    head: Head


def prove_entry(entry_id: int) -> Proof:
    """The inclusion proof of an entry under the first head that has it; NotProvable if none does."""
    (proof,) = prove_entries([entry_id])
    return proof


def prove_entries(entry_ids: Collection[int]) -> list[Proof]:
    """The proofs of several entries under the first head that has all of them, in their order."""
    leaves_of = AuditLeaf.objects.select_related("entry").filter(entry__in=entry_ids)
    found = {leaf.entry_id: leaf for leaf in leaves_of}
    if lost := [entry_id for entry_id in entry_ids if entry_id not in found]:
        raise NotProvable(f"Entry {lost[0]} is not sealed.")
    last = max(leaf.index for leaf in found.values())
    head = TreeHead.objects.filter(size__gt=last).order_by("size").first()
    if head is None:
        raise NotProvable(f"No signed head has leaf {last} yet.")
    signed, tiles = Head.of_row(head), Tiles(_read_tile)
    return [
        Proof(leaf.entry.text, leaf.index, [node.hex() for node in tiles.path(leaf.index, head.size)], signed)
        for leaf in (found[entry_id] for entry_id in entry_ids)
    ]


def _read_tile(level: int, number: int) -> list[bytes]:
    first = number << TILE_HEIGHT
    within = {"index__gte": first, "index__lt": first + (1 << TILE_HEIGHT)}
    hashes = (
        AuditLeaf.objects.filter(**within).order_by("index").values_list("leaf_hash")
        if level == 0
        else AuditNode.objects.filter(level=level, **within).order_by("index").values_list("root_hash")
    )
    return [bytes.fromhex(hashed) for (hashed,) in hashes]
