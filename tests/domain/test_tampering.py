"""Random tampering with a sealed log, as the database's owner with the guards off: each one is found.

Set LEASEHOLD_TAMPERINGS to try that many; LEASEHOLD_FIRST_TAMPERING says which number is the first.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest
from django.db import connection, transaction

from leasing.actors import SYSTEM
from leasing.audit.log import record
from leasing.audit.merkle import leaf_hash
from leasing.audit.sealer import seal
from leasing.audit.verifier import verify_log
from leasing.guards import guards_of
from leasing.models import AuditEntry, AuditLeaf, TreeHead
from tests.domain.ground import NOW

pytestmark = pytest.mark.django_db

TAMPERINGS = int(os.environ.get("LEASEHOLD_TAMPERINGS", "30"))
FIRST = int(os.environ.get("LEASEHOLD_FIRST_TAMPERING", "0"))
SIZES = (1, 4, 9, 10, 16, 23)  # of the log under each head
Rows = list[tuple[object, ...]]


@pytest.fixture
def sealed() -> Iterator[None]:
    """A log under several heads; nothing guards it, and no reference of it is looked after."""
    for before, size in zip((0, *SIZES), SIZES, strict=False):
        for number in range(before, size):
            record(action="test", actor=SYSTEM, subject=f"test:{number}", now=NOW, number=number)
        seal(NOW)
    with connection.cursor() as cursor:
        for guard in guards_of(connection):
            if guard.kind == "TRIGGER":
                on_table = f" ON {guard.table}" if connection.vendor == "postgresql" else ""
                cursor.execute(f"DROP TRIGGER {guard.name}{on_table}")
        if connection.vendor == "postgresql":
            cursor.execute("SET session_replication_role = replica")
    assert verify_log().problems == []
    yield
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = origin")


def content() -> Rows:
    """All of the log, to tell whether anything was changed."""
    found: Rows = []
    for model in (AuditEntry, AuditLeaf, TreeHead):
        found += model._default_manager.order_by("pk").values_list()
    return found


def some_leaf(dice: random.Random) -> AuditLeaf | None:
    leaves = list(AuditLeaf.objects.select_related("entry"))
    return dice.choice(leaves) if leaves else None


def change_text(dice: random.Random) -> None:
    """One character; sometimes the leaf's hash is made to fit."""
    leaf = some_leaf(dice)
    if leaf is None:
        return
    place, text = dice.randrange(len(leaf.entry.text)), leaf.entry.text
    text = text[:place] + dice.choice("0123456789abc{}\"' ") + text[place + 1 :]
    AuditEntry.objects.filter(pk=leaf.entry_id).update(text=text)
    if dice.random() < 0.5:
        AuditLeaf.objects.filter(pk=leaf.pk).update(leaf_hash=leaf_hash(text.encode()).hex())


def change_column(dice: random.Random) -> None:
    leaf = some_leaf(dice)
    column, value = dice.choice([("actor", "mallory"), ("action", "role.grant"), ("subject", "lease:1")])
    if leaf is not None:
        AuditEntry.objects.filter(pk=leaf.entry_id).update(**{column: value})


def delete_some(dice: random.Random) -> None:
    """An entry, a leaf, or both; sometimes everything after it, or what follows is moved up."""
    leaf = some_leaf(dice)
    if leaf is None:
        return
    what, rest = dice.choice(["entry", "leaf", "both"]), dice.choice(["keep", "cut", "close"])
    chosen = AuditLeaf.objects.filter(index__gte=leaf.index) if rest == "cut" else [leaf]
    for one in list(chosen):
        if what != "entry":
            raw_delete("leasing_auditleaf", "index", one.index)
        if what != "leaf":
            raw_delete("leasing_auditentry", "id", one.entry_id)
    if rest == "close" and what != "entry":
        for later in AuditLeaf.objects.filter(index__gt=leaf.index).order_by("index"):
            AuditLeaf.objects.filter(pk=later.pk).update(index=later.index - 1)


def swap(dice: random.Random) -> None:
    one, other = some_leaf(dice), some_leaf(dice)
    if one is None or other is None or one == other:
        return
    for old, new in ((one.index, 10**6), (other.index, one.index), (10**6, other.index)):
        AuditLeaf.objects.filter(index=old).update(index=new)


def insert(dice: random.Random) -> None:
    """An entry that never was, somewhere in the middle or at the end, with a leaf that fits it."""
    size = AuditLeaf.objects.count()
    place = dice.randrange(size + 1)
    for leaf in AuditLeaf.objects.filter(index__gte=place).order_by("-index"):
        AuditLeaf.objects.filter(pk=leaf.pk).update(index=leaf.index + 1)
    forged = record(action="test", actor=SYSTEM, subject="test:forged", now=NOW)
    raw_delete("leasing_unsealedentry", "entry_id", forged.pk)
    AuditLeaf.objects.create(index=place, entry=forged, leaf_hash=leaf_hash(forged.text.encode()).hex())


def change_head(dice: random.Random) -> None:
    heads = list(TreeHead.objects.all())
    if not heads:
        return
    head = dice.choice(heads)
    change: dict[str, object] = dice.choice(
        [{"root_hash": "00" * 32}, {"signature": "00" * 64}, {"size": head.size + 100}, {"key_id": "00" * 8}]
    )
    TreeHead.objects.filter(pk=head.pk).update(**change)


def truncate(dice: random.Random) -> None:
    tables = ["leasing_auditleaf", "leasing_auditentry"]
    for table in tables if dice.random() < 0.5 else [dice.choice(tables)]:
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table}")  # noqa: S608 - one of ours


def raw_delete(table: str, column: str, value: int) -> None:
    """As SQL does it: no application looks after what refers to the row."""
    with connection.cursor() as cursor:
        cursor.execute(f'DELETE FROM {table} WHERE "{column}" = %s', [value])  # noqa: S608 - one of ours


WAYS: list[Callable[[random.Random], None]] = [
    change_text, change_column, delete_some, swap, insert, change_head, truncate,
]  # fmt: skip


@pytest.mark.timeout(60 + TAMPERINGS)
@pytest.mark.usefixtures("sealed")
def test_whatever_is_done_to_a_sealed_log_is_found() -> None:
    before = content()
    tried = 0
    for number in range(FIRST, FIRST + TAMPERINGS):
        dice = random.Random(number)
        with transaction.atomic():
            for way in dice.choices(WAYS, k=dice.choice((1, 1, 1, 2, 3))):
                way(dice)
            if content() != before:
                tried += 1
                assert verify_log().problems, f"LEASEHOLD_FIRST_TAMPERING={number} was not found"
            transaction.set_rollback(True)
        assert content() == before
    assert tried > TAMPERINGS * 0.8
