"""Sealing: every entry gets its place in the Merkle log, and the signed head goes to the anchor.

Entries that wait are rows of their own, whatever their id: ids are not commit order. Only sealers lock each
other out; recording an act never waits for one.
"""

from __future__ import annotations

from datetime import datetime

from django.db import connection, transaction

from leasing.audit.anchor import Head, append_anchors, sign_head
from leasing.audit.merkle import Frontier, Node, leaf_hash
from leasing.models import AuditLeaf, AuditNode, TreeHead, UnsealedEntry

# Entries sealed under one head; what is left waits for the next call.
BATCH = 5000
SEALERS_LOCK = 0x5EA1

_trees: list[Frontier] = []


class AlteredLog(RuntimeError):
    """The leaves do not lead to the last signed head: nothing more is built on them."""


def seal(now: datetime) -> int:
    """Seal what is unsealed, anchor what is not anchored. Returns the number of entries sealed."""
    sealed = _seal_batch(now) if UnsealedEntry.objects.exists() else 0
    _anchor_heads(now)
    return sealed


def _seal_batch(now: datetime) -> int:
    with transaction.atomic():
        _lock_out_other_sealers()
        tree = _current_tree()
        waiting = UnsealedEntry.objects.order_by("entry_id").values_list("entry_id", "entry__text")
        entries = list(waiting[:BATCH])
        tree.completed.clear()
        leaves = [_add_leaf(tree, entry_id, text) for entry_id, text in entries]
        if leaves:
            AuditLeaf.objects.bulk_create(leaves)
            _save_nodes(tree.completed)
            UnsealedEntry.objects.filter(entry__in=[leaf.entry_id for leaf in leaves]).delete()
            _save_head(sign_head(size=tree.size, root_hash=tree.root().hex(), now=now))
    return len(leaves)


def _add_leaf(tree: Frontier, entry_id: int, text: str) -> AuditLeaf:
    hashed = leaf_hash(text.encode())
    leaf = AuditLeaf(index=tree.size, entry_id=entry_id, leaf_hash=hashed.hex())
    tree.append(hashed)
    return leaf


def _save_nodes(nodes: list[Node]) -> None:
    AuditNode.objects.bulk_create(
        AuditNode(level=level, index=index, root_hash=root.hex()) for level, index, root in nodes
    )


def _save_head(head: Head) -> None:
    TreeHead.objects.create(**{name: getattr(head, name) for name in head.__struct_fields__})


def _anchor_heads(now: datetime) -> None:
    """After the commit. A crash in between writes a head down twice, which does no harm."""
    rows = list(TreeHead.objects.filter(anchored_at=None).order_by("size"))
    if rows:
        append_anchors(map(Head.of_row, rows))
        TreeHead.objects.filter(pk__in=[row.pk for row in rows]).update(anchored_at=now)


def _current_tree() -> Frontier:
    """The tree of the last head. This process's copy is brought up to date, or built anew if it strayed."""
    head = TreeHead.objects.order_by("-size").first()
    size, root = (head.size, head.root_hash) if head else (0, Frontier().root().hex())
    for tree in (_trees.pop() if _trees else Frontier(), Frontier()):
        known = AuditLeaf.objects.filter(index__gte=tree.size, index__lt=size).order_by("index")
        for hashed in known.values_list("leaf_hash", flat=True).iterator():
            tree.append(bytes.fromhex(hashed))
        if (tree.size, tree.root().hex()) == (size, root):
            _trees.append(tree)
            return tree
    raise AlteredLog(
        f"The leaves do not lead to the signed head of size {size}: run `manage.py audit verify`."
    )


def _lock_out_other_sealers() -> None:
    """SQLite's transactions have one writer anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SEALERS_LOCK])
