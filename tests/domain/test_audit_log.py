"""Sealing the audit log and proving it: each way of tampering, done with the guards off, is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from nacl.signing import SigningKey
from pytest_django import Settings

from leasing.actors import SYSTEM
from leasing.audit import sealer
from leasing.audit.anchor import Head, read_anchors, sign_head
from leasing.audit.log import record
from leasing.audit.merkle import Frontier, includes, leaf_hash
from leasing.audit.proofs import prove_entry
from leasing.audit.sealer import AlteredLog, seal
from leasing.audit.verifier import verify_log
from leasing.guards import NOTE_EACH, guards_of
from leasing.keys import portal_signing_key
from leasing.models import AuditEntry, AuditLeaf, AuditNode, TreeHead, UnsealedEntry, Verification
from tests.domain.ground import NOW

pytestmark = pytest.mark.django_db


def write(count: int, *, first: int = 0) -> list[AuditEntry]:
    numbers = range(first, first + count)
    return [record(action="test", actor=SYSTEM, subject=f"test:{n}", now=NOW, number=n) for n in numbers]


def problems() -> str:
    return "\n".join(verify_log().problems)


def run(*words: object) -> str:
    out = StringIO()
    call_command("audit", *map(str, words), stdout=out, stderr=out)
    return out.getvalue()


@pytest.fixture
def sealed() -> list[AuditEntry]:
    """Twelve entries under three heads."""
    entries = []
    for first in (0, 5, 9):
        entries += write(5 if first == 0 else 4 if first == 5 else 3, first=first)
        seal(NOW)
    assert verify_log().problems == []
    return entries


@pytest.fixture
def tampering(sealed: list[AuditEntry]) -> Iterator[None]:
    """Take the guards off; in the end, remove what points to nothing, which Django would complain of."""
    with connection.cursor() as cursor:
        for guard in guards_of(connection):
            if guard.kind == "TRIGGER" and guard.name != NOTE_EACH:
                on_table = f" ON {guard.table}" if connection.vendor == "postgresql" else ""
                cursor.execute(f"DROP TRIGGER {guard.name}{on_table}")
    yield
    AuditLeaf.objects.exclude(entry__in=AuditEntry.objects.all()).delete()


@contextmanager
def broken_references() -> Iterator[None]:
    """Rows may go although others point to them, until the end of the test."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET session_replication_role = replica")
        yield
        if connection.vendor == "postgresql":
            cursor.execute("SET session_replication_role = origin")


def delete(table: str, where: str) -> None:
    with broken_references(), connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} WHERE {where}")  # noqa: S608


def test_entries_are_sealed_once_under_a_signed_and_anchored_head() -> None:
    write(3)
    assert seal(NOW) == 3
    assert seal(NOW) == 0
    write(2, first=3)
    assert seal(NOW) == 2
    assert list(AuditLeaf.objects.values_list("index", flat=True)) == [0, 1, 2, 3, 4]
    heads = list(read_anchors())
    assert [head.size for head in heads] == [3, 5]
    assert all(head.is_signed_by(portal_signing_key().verify_key) for head in heads)
    assert not TreeHead.objects.filter(anchored_at=None).exists()
    verdict = verify_log()
    assert (verdict.problems, verdict.proven, verdict.sealed, verdict.unsealed) == ([], 5, 5, 0)


def test_an_entry_that_commits_late_with_a_lower_id_is_sealed_too() -> None:
    late = AuditEntry(pk=10**6, recorded_at=NOW, action="test", actor="a", subject="test:1")
    late.text = write(1)[0].text
    late.save(force_insert=True)
    seal(NOW)
    earlier = AuditEntry.objects.create(
        pk=10**6 - 1, recorded_at=NOW, action="test", actor="leasehold", subject="test:0", text=late.text
    )
    assert seal(NOW) == 1
    assert earlier.leaf.index == 2


def test_many_entries_are_sealed_in_several_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealer, "BATCH", 4)
    write(10)
    assert [seal(NOW) for _ in range(4)] == [4, 4, 2, 0]
    assert problems() == ""


def test_a_head_that_a_crash_left_unanchored_is_anchored_next_time(sealed: list[AuditEntry]) -> None:
    lines = settings.AUDIT_ANCHOR_FILE.read_text().splitlines(keepends=True)
    settings.AUDIT_ANCHOR_FILE.write_text("".join(lines[:-1]))
    TreeHead.objects.filter(size=12).update(anchored_at=None)
    assert verify_log().proven == 9
    seal(NOW)
    assert verify_log().proven == 12
    assert settings.AUDIT_ANCHOR_FILE.read_text().splitlines(keepends=True) == lines


def test_a_sealer_that_starts_anew_builds_on_what_is_there(sealed: list[AuditEntry]) -> None:
    sealer._trees.clear()
    write(2, first=12)
    assert seal(NOW) == 2
    assert problems() == ""


Change = Callable[[list[AuditEntry]], None]


def change_text(entries: list[AuditEntry]) -> None:
    AuditEntry.objects.filter(pk=entries[6].pk).update(text=entries[6].text.replace("6", "7"))


def change_text_and_leaf(entries: list[AuditEntry]) -> None:
    text = entries[6].text.replace("6", "7")
    AuditEntry.objects.filter(pk=entries[6].pk).update(text=text, subject="test:7")
    AuditLeaf.objects.filter(index=6).update(leaf_hash=leaf_hash(text.encode()).hex())


def change_column(entries: list[AuditEntry]) -> None:
    AuditEntry.objects.filter(pk=entries[6].pk).update(actor="somebody else")


def delete_entry(entries: list[AuditEntry]) -> None:
    delete("leasing_auditentry", f"id = {entries[6].pk}")


def delete_entry_and_leaf(entries: list[AuditEntry]) -> None:
    delete("leasing_auditleaf", "index = 6" if connection.vendor == "postgresql" else '"index" = 6')
    delete("leasing_auditentry", f"id = {entries[6].pk}")


def delete_and_close_the_gap(entries: list[AuditEntry]) -> None:
    delete_entry_and_leaf(entries)
    for index in range(7, 12):
        AuditLeaf.objects.filter(index=index).update(index=index - 1)


def swap_entries(entries: list[AuditEntry]) -> None:
    a, b = entries[6], entries[7]
    AuditEntry.objects.filter(pk=a.pk).update(text=b.text)
    AuditEntry.objects.filter(pk=b.pk).update(text=a.text)


def swap_leaves(entries: list[AuditEntry]) -> None:
    for old, new in ((6, 99), (7, 6), (99, 7)):
        AuditLeaf.objects.filter(index=old).update(index=new)


def insert_entry(entries: list[AuditEntry]) -> None:
    for index in range(11, 6, -1):
        AuditLeaf.objects.filter(index=index).update(index=index + 1)
    (extra,) = write(1, first=50)
    AuditLeaf.objects.create(index=7, entry=extra, leaf_hash=leaf_hash(extra.text.encode()).hex())


def append_entry(entries: list[AuditEntry]) -> None:
    (extra,) = write(1, first=50)
    UnsealedEntry.objects.filter(entry=extra).delete()
    AuditLeaf.objects.create(index=12, entry=extra, leaf_hash=leaf_hash(extra.text.encode()).hex())


def truncate_everything(entries: list[AuditEntry]) -> None:
    for table in ("leasing_auditleaf", "leasing_auditentry", "leasing_treehead"):
        delete(table, "1 = 1")


def cut_the_end(entries: list[AuditEntry]) -> None:
    delete("leasing_auditleaf", "entry_id > " + str(entries[8].pk))
    delete("leasing_auditentry", f"id > {entries[8].pk}")
    delete("leasing_treehead", "size > 9")


def rewrite_everything_with_another_key(entries: list[AuditEntry]) -> None:
    """The whole database is replaced by a consistent one, and the anchor by one that fits it."""
    truncate_everything(entries)
    sealer._trees.clear()
    write(12, first=100)
    mine = portal_signing_key()
    from leasing.audit import anchor

    settings.AUDIT_ANCHOR_FILE.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anchor, "portal_signing_key", lambda: SigningKey(b"\x07" * 32))
        seal(NOW)
    assert portal_signing_key() == mine


def empty_the_anchor(entries: list[AuditEntry]) -> None:
    settings.AUDIT_ANCHOR_FILE.write_text("")


def cut_the_anchor(entries: list[AuditEntry]) -> None:
    lines = settings.AUDIT_ANCHOR_FILE.read_text().splitlines(keepends=True)
    settings.AUDIT_ANCHOR_FILE.write_text("".join(lines[:-1]))


def garble_the_anchor(entries: list[AuditEntry]) -> None:
    with settings.AUDIT_ANCHOR_FILE.open("a") as file:
        file.write("nonsense\n")


def forge_an_anchor(entries: list[AuditEntry]) -> None:
    """A head that was changed after it was signed."""
    heads = list(read_anchors())
    forged = msgspec.structs.replace(heads[-1], size=heads[-1].size - 1)
    settings.AUDIT_ANCHOR_FILE.write_bytes(
        b"".join(msgspec.json.encode(head) + b"\n" for head in [*heads[:-1], forged])
    )


def forge_a_stored_head(entries: list[AuditEntry]) -> None:
    TreeHead.objects.filter(size=9).update(signature="00" * 64)


@pytest.mark.usefixtures("tampering")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_text, "Entry {6} (leaf 6): its text is not what was sealed."),
        (change_text_and_leaf, "what differs lies between entry {5} and entry {8}."),
        (change_column, "Entry {6} (leaf 6): its columns do not say what its sealed text says."),
        (delete_entry, "Entry {6} (leaf 6) was sealed and is gone."),
        (delete_entry_and_leaf, "Leaf 6 is missing: the next one is leaf 7."),
        (delete_and_close_the_gap, "what differs lies between entry {5} and entry {9}."),
        (swap_entries, "Entry {6} (leaf 6): its text is not what was sealed."),
        (swap_leaves, "what differs lies between entry {5} and entry {8}."),
        (insert_entry, "what differs lies between entry {5} and entry {7}."),
        (append_entry, "(leaf 12) follows the last signed head: it was put in."),
        (truncate_everything, "A signed head knows 12 entries, the log has 0: its end is missing."),
        (cut_the_end, "A signed head knows 12 entries, the log has 9: its end is missing."),
        (rewrite_everything_with_another_key, "head of 12 entries is not signed by this portal's key."),
        (empty_the_anchor, "The anchor holds no head: nothing can be proven."),
        (cut_the_anchor, "The anchor lacks the head of 12 entries, which was written to it."),
        (garble_the_anchor, "is not a head"),
        (forge_an_anchor, "The anchored head of 11 entries is not signed by this portal's key."),
        (forge_a_stored_head, "The stored head of 9 entries is not signed by this portal's key."),
    ],
)
def test_tampering_is_found(sealed: list[AuditEntry], change: Change, words: str) -> None:
    change(sealed)
    ids = {str(index): entry.pk for index, entry in enumerate(sealed)}
    for index, pk in ids.items():
        words = words.replace(f"{{{index}}}", str(pk))
    assert words in problems()
    assert verify_log().proven == 0
    with pytest.raises(SystemExit, match="1"):
        run("verify")


@pytest.mark.usefixtures("tampering")
def test_an_entry_that_would_never_be_sealed_is_found(sealed: list[AuditEntry]) -> None:
    """Whoever takes it out of the queue hides it from the log."""
    (entry,) = write(1, first=12)
    assert problems() == ""
    UnsealedEntry.objects.filter(entry=entry).delete()
    assert problems() == f"Entry {entry.pk} is neither sealed nor waiting to be."


@pytest.mark.usefixtures("tampering")
def test_nothing_more_is_built_on_an_altered_log(sealed: list[AuditEntry]) -> None:
    AuditLeaf.objects.filter(index=3).update(leaf_hash="00" * 32)
    sealer._trees.clear()
    write(1, first=12)
    with pytest.raises(AlteredLog):
        seal(NOW)
    assert TreeHead.objects.latest("size").size == 12


def test_verify_says_what_is_proven(sealed: list[AuditEntry]) -> None:
    write(2, first=12)
    assert run("verify") == (
        "The audit log verifies: 12 entries lead to the anchored head, 0 await an anchor, 2 await sealing.\n"
    )


def test_the_head_is_the_last_anchored_one(sealed: list[AuditEntry]) -> None:
    assert json.loads(run("head"))["size"] == 12


def test_without_an_anchor_there_is_no_head() -> None:
    with pytest.raises(CommandError, match="Nothing is anchored yet"):
        run("head")


def test_an_entry_is_proven_by_its_path_to_the_head(sealed: list[AuditEntry]) -> None:
    for index, entry in enumerate(sealed):
        proof = json.loads(run("prove", entry.pk))
        head = msgspec.convert(proof["head"], type=Head)
        assert head.is_signed_by(portal_signing_key().verify_key)
        assert (proof["text"], proof["index"]) == (entry.text, index)
        assert includes(
            leaf=leaf_hash(proof["text"].encode()),
            index=proof["index"],
            size=head.size,
            path=[bytes.fromhex(node) for node in proof["path"]],
            root=bytes.fromhex(head.root_hash),
        )


@pytest.fixture
def long_log() -> list[AuditEntry]:
    """So long that inner nodes are kept of it."""
    entries = write(300)
    seal(NOW)
    entries += write(300, first=300)
    seal(NOW)
    return entries


def test_a_proof_reads_a_few_tiles_and_not_the_log(long_log: list[AuditEntry]) -> None:
    assert list(AuditNode.objects.values_list("level", "index")) == [(1, 0), (1, 1)]
    entry = long_log[437]
    with CaptureQueriesContext(connection) as asked:
        proof = prove_entry(entry.pk)
    assert includes(
        leaf=leaf_hash(entry.text.encode()),
        index=437,
        size=600,
        path=[bytes.fromhex(node) for node in proof.path],
        root=bytes.fromhex(proof.head.root_hash),
    )
    tiles = [one["sql"] for one in asked if "_hash" in one["sql"] and "BETWEEN" not in one["sql"]]
    assert len(tiles) <= 6  # its leaf, its head, its own tile, the last one, and the one above
    assert problems() == ""


@pytest.mark.usefixtures("long_log")
def test_an_inner_node_that_was_changed_or_removed_is_found() -> None:
    with connection.cursor() as cursor:
        for event in ("update", "delete"):
            on_table = " ON leasing_auditnode" if connection.vendor == "postgresql" else ""
            cursor.execute(f"DROP TRIGGER leasing_auditnode_append_only_{event}{on_table}")
    AuditNode.objects.filter(index=1).update(root_hash="00" * 32)
    assert problems() == "Inner node 1 of level 1 is not what its leaves say."
    AuditNode.objects.filter(index=1).delete()
    assert problems() == "Inner node 1 of level 1 is not what its leaves say."


def test_heads_that_somebody_else_kept_are_believed_too(sealed: list[AuditEntry], tmp_path: Path) -> None:
    """Whoever holds the database, the key and the anchor file can still not please syslog."""
    witness = tmp_path / "syslog"
    lines = settings.AUDIT_ANCHOR_FILE.read_text().splitlines()
    witness.write_text("".join(f"<109>1 now here leasehold - audit-head - {line}\n" for line in lines))
    assert verify_log(witness).problems == []
    assert "12 entries lead to the anchored head" in run("verify", "--witness", witness)
    other = sign_head(size=12, root_hash="00" * 32, now=NOW)
    with witness.open("ab") as file:
        file.write(msgspec.json.encode(other))
    assert "are not those of the anchored head of 12 entries" in verify_log(witness).problems[0]
    assert verify_log().problems == []
    with pytest.raises(SystemExit, match="1"):
        run("verify", "--witness", witness)
    assert "No such file" in verify_log(tmp_path / "none").problems[0]


def test_each_verification_is_kept_and_recorded(sealed: list[AuditEntry]) -> None:
    run("verify")
    kept = Verification.objects.get()
    assert (kept.proven, kept.sealed, kept.problems) == (12, 12, [])
    assert kept.root_hash == TreeHead.objects.latest("size").root_hash
    told = json.loads(AuditEntry.objects.get(action="audit.verify").text)
    assert told["detail"]["root"] == kept.root_hash


def test_entries_are_exported_as_they_were_sealed(sealed: list[AuditEntry]) -> None:
    lines = [json.loads(line) for line in run("export").splitlines()]
    told = lines.pop()
    assert (told["leaf"], json.loads(told["text"])["action"]) == (None, "audit.export")
    tree = Frontier()
    for number, line in enumerate(lines):
        assert line["leaf"] == number
        tree.append(leaf_hash(line["text"].encode()))
    assert tree.root().hex() == TreeHead.objects.latest("size").root_hash
    (only,) = run("export", "--subject", "test:3").splitlines()
    assert json.loads(only)["entry"] == sealed[3].pk
    assert run("export", "--before", "2026-03-02T09:00Z") == ""
    with pytest.raises(CommandError, match="say the zone"):
        run("export", "--since", "2026-03-02")


def test_an_unsealed_entry_cannot_be_proven() -> None:
    (entry,) = write(1)
    with pytest.raises(CommandError, match="not sealed"):
        run("prove", entry.pk)


def test_the_portal_key_is_made_once_and_private(settings: Settings, tmp_path: Path) -> None:
    settings.SIGNING_KEY_FILE = path = tmp_path / "keys" / "portal.key"
    key = portal_signing_key()
    assert portal_signing_key() is key
    assert path.stat().st_mode & 0o777 == 0o600
    assert bytes.fromhex(path.read_text().strip()) == bytes(key)
    assert [file.name for file in path.parent.iterdir()] == ["portal.key"]


def test_a_portal_key_that_others_can_read_is_refused(settings: Settings, tmp_path: Path) -> None:
    settings.SIGNING_KEY_FILE = path = tmp_path / "portal.key"
    path.write_text("00" * 32)
    path.chmod(0o640)
    with pytest.raises(Exception, match="chmod 600"):
        portal_signing_key()
