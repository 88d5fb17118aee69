"""Proving the audit log: every sealed entry is recomputed from its stored text, up to the last anchored head.

What has been changed, removed, swapped or put in since then is found, whoever did it and however well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings

from leasing.audit.anchor import BadAnchor, Head, read_heads
from leasing.audit.merkle import Frontier, Node, leaf_hash
from leasing.keys import portal_signing_key
from leasing.models import AuditEntry, AuditLeaf, AuditNode, TreeHead, UnsealedEntry

# More would say nothing new: one altered leaf makes every later head disagree.
SHOWN = 20


@dataclass(frozen=True)
class Verdict:
    """What verification found. `proven` entries lead to `anchor`, the last head outside; others await one."""

    proven: int
    sealed: int
    unsealed: int
    problems: list[str]
    anchor: Head | None


class _Known(NamedTuple):
    head: Head
    kind: str


class _Row(NamedTuple):
    place: int
    leaf_hash: str
    entry_id: int
    text: str
    recorded_at: datetime
    action: str
    actor: str
    subject: str
    tenant_id: UUID | None


class _Actor(msgspec.Struct):
    name: str


class _Told(msgspec.Struct):
    """The part of an entry's text that its columns repeat."""

    recorded_at: datetime
    action: str
    actor: _Actor
    subject: str
    tenant: str | None


def verify_log(witness: Path | None = None) -> Verdict:
    """Check the whole log against the anchored heads and the heads in the database.

    `witness` is a file with heads that somebody else has kept, lines of syslog for example.
    """
    # In this order, so that what is sealed meanwhile is never taken for lost.
    rows = list(TreeHead.objects.order_by("size"))
    anchors, broken = _read_anchors()
    if witness is not None:
        told, unreadable = _read_heads(witness)
        anchors, broken = [*anchors, *told], [*broken, *unreadable]
    known = [_Known(head, "anchored") for head in anchors]
    known += [_Known(Head.of_row(row), "stored") for row in rows]
    problems = [*broken, *_forged(known), *_unanchored(rows, anchors), *_compare(Frontier(), known)]
    problems += _forgotten()
    anchor = max(anchors, key=lambda head: head.size, default=None)
    return Verdict(
        proven=anchor.size if anchor and not problems else 0,
        sealed=AuditLeaf.objects.count(),
        unsealed=UnsealedEntry.objects.count(),
        problems=problems[:SHOWN],
        anchor=anchor,
    )


def _read_anchors() -> tuple[list[Head], list[str]]:
    path: Path = settings.AUDIT_ANCHOR_FILE
    return _read_heads(path) if path.exists() else ([], [])


def _read_heads(path: Path) -> tuple[list[Head], list[str]]:
    try:
        return list(read_heads(path)), []
    except (BadAnchor, OSError) as error:
        return [], [str(error)]


def _forged(known: list[_Known]) -> Iterator[str]:
    key = portal_signing_key().verify_key
    for head, kind in known:
        if not head.is_signed_by(key):
            yield f"The {kind} head of {head.size} entries is not signed by this portal's key."


def _unanchored(rows: list[TreeHead], anchors: list[Head]) -> Iterator[str]:
    written = max((row.size for row in rows if row.anchored_at), default=0)
    if written > max((head.size for head in anchors), default=0):
        yield f"The anchor lacks the head of {written} entries, which was written to it."
    if rows and not anchors:
        yield "The anchor holds no head: nothing can be proven."


def _forgotten() -> Iterator[str]:
    for pk in AuditEntry.objects.filter(leaf=None, unsealed=None).values_list("pk", flat=True)[:SHOWN]:
        yield f"Entry {pk} is neither sealed nor waiting to be."


def _compare(tree: Frontier, known: list[_Known]) -> Iterator[str]:
    """Grow the tree from the stored texts and compare it wherever a head was signed."""
    heads: dict[int, list[_Known]] = {}
    for one in known:
        heads.setdefault(one.head.size, []).append(one)
    agreed = 0
    for row in _rows():
        if row.place != tree.size:
            yield _describe_gap(tree.size, row.place)
            return
        hashed = leaf_hash(row.text.encode())
        yield from _check_row(row, hashed.hex())
        tree.append(hashed)
        for head, kind in heads.pop(tree.size, ()):
            if head.root_hash != tree.root().hex():
                yield _describe_difference(agreed, head, kind)
                return
            agreed = tree.size
    yield from _differing_nodes(tree.completed)
    for size in sorted(heads):
        yield f"A signed head knows {size} entries, the log has {tree.size}: its end is missing."
    # Asked after the leaves were read: what was sealed meanwhile has its head by now.
    signed = TreeHead.objects.order_by("-size").values_list("size", flat=True).first() or 0
    if tree.size > signed:
        entry_id = AuditLeaf.objects.values_list("entry_id", flat=True).get(index=signed)
        yield f"Entry {entry_id} (leaf {signed}) follows the last signed head: it was put in."


def _differing_nodes(told: list[Node]) -> Iterator[str]:
    """The kept inner nodes prove nothing, but proofs need them."""
    rows = AuditNode.objects.values_list("level", "index", "root_hash")
    kept = {(level, index): root_hash for level, index, root_hash in rows.iterator()}
    for level, index, root in told:
        if kept.get((level, index)) != root.hex():
            yield f"Inner node {index} of level {level} is not what its leaves say."


def _rows() -> Iterator[_Row]:
    columns = ("recorded_at", "action", "actor", "subject", "tenant_id")
    rows = AuditLeaf.objects.order_by("index").values_list(
        "index", "leaf_hash", "entry_id", "entry__text", *(f"entry__{column}" for column in columns)
    )
    return map(_Row._make, rows.iterator(chunk_size=2000))


def _check_row(row: _Row, hashed: str) -> Iterator[str]:
    if row.leaf_hash != hashed:
        yield f"Entry {row.entry_id} (leaf {row.place}): its text is not what was sealed."
    elif not _tells_the_same(row):
        yield f"Entry {row.entry_id} (leaf {row.place}): its columns do not say what its sealed text says."


def _tells_the_same(row: _Row) -> bool:
    """Whether the columns, by which entries are found, agree with the text. A tenant may be renamed."""
    try:
        told = msgspec.json.decode(row.text, type=_Told)
    except msgspec.MsgspecError:
        return False
    has_tenant = told.tenant is not None
    return (told.recorded_at, told.action, told.actor.name, told.subject, has_tenant) == (
        row.recorded_at,
        row.action,
        row.actor,
        row.subject,
        row.tenant_id is not None,
    )


def _describe_gap(expected: int, found: int) -> str:
    orphan = AuditLeaf.objects.filter(index=expected).values_list("entry_id", flat=True).first()
    if orphan is not None:
        return f"Entry {orphan} (leaf {expected}) was sealed and is gone."
    return f"Leaf {expected} is missing: the next one is leaf {found}."


def _describe_difference(agreed: int, head: Head, kind: str) -> str:
    ids = AuditLeaf.objects.filter(index__in=(agreed, head.size - 1)).order_by("index")
    first, *rest = ids.values_list("entry_id", flat=True)
    return (
        f"Leaves {agreed} to {head.size - 1} are not those of the {kind} head of {head.size} entries: "
        f"what differs lies between entry {first} and entry {rest[-1] if rest else first}."
    )
