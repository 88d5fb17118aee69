"""Inclusion proofs: what shows to anyone who trusts a signed head that entries are in the log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from leasing.audit.anchor import Head
from leasing.audit.merkle import inclusion_path
from leasing.models import AuditLeaf, TreeHead


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
    hashes = AuditLeaf.objects.filter(index__lt=head.size).order_by("index")
    leaves = [bytes.fromhex(hashed) for hashed in hashes.values_list("leaf_hash", flat=True)]
    signed = Head.of_row(head)
    return [
        Proof(
            leaf.entry.text, leaf.index, [node.hex() for node in inclusion_path(leaf.index, leaves)], signed
        )
        for leaf in (found[entry_id] for entry_id in entry_ids)
    ]
