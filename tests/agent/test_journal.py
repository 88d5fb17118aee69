"""The journal and the spool: all or nothing, numbered without gaps, readable by their owner alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from uuid import UUID

import pytest
from nacl.signing import SigningKey

from hosts.agent.journal import Journal, JournalError
from hosts.agent.plans import Plan, Plans, gpu_lock, lease_lock, runnable
from hosts.agent.spool import Origin, Spool, utc_now
from hosts.protocol.codec import decode_report
from hosts.protocol.messages import Accepted, Inspect
from hosts.protocol.signing import COMMAND, REPORT, ForgedMessage, Signer, Verifier, key_id

KEY = SigningKey.generate()
ORIGIN = Origin("host:box")


def a_spool(journal: Journal) -> Spool:
    return Spool(journal, signer=Signer(KEY, REPORT), host="box", clock=utc_now)


def test_a_journal_keeps_its_id_and_knows_that_it_is_not_new(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal")
    first.close()
    second = Journal(tmp_path / "journal")
    assert first.is_new
    assert not second.is_new
    assert second.journal_id == first.journal_id
    second.close()


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}
    journal.close()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with journal.transaction():
        assert journal.execute("PRAGMA synchronous").fetchone()[0] == 2
    journal.close()


def test_nothing_is_written_outside_a_transaction(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with pytest.raises(JournalError):
        journal.execute("DELETE FROM report")
    journal.close()


def test_a_schema_of_another_version_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with journal.transaction():
        journal.execute("PRAGMA user_version = 99")
    journal.close()
    with pytest.raises(JournalError, match="99"):
        Journal(tmp_path / "journal")


def test_two_workers_cannot_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hosts.agent.journal.LOCK_SECONDS", 0.1)
    journal = Journal(tmp_path / "journal")
    with pytest.raises(JournalError, match="another worker"):
        Journal(tmp_path / "journal")
    journal.close()


def test_a_failed_transaction_leaves_no_gap_in_the_numbers(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    spool = a_spool(journal)
    assert spool.add(Accepted(), ORIGIN) == 1

    def begin_and_fail() -> None:
        with journal.transaction():
            spool.add(Accepted(), ORIGIN)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        begin_and_fail()
    assert spool.add(Accepted(), ORIGIN) == 2
    journal.close()


def test_a_journal_works_again_after_its_disk_was_full(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with journal.transaction():
        journal.execute("PRAGMA max_page_count = 30")

    def fill() -> None:
        with journal.transaction():
            for number in range(1000):
                journal.remember(str(number), "x" * 1000)

    with pytest.raises(sqlite3.OperationalError, match="full"):
        fill()
    with journal.transaction():
        assert journal.recall("0") is None
        journal.remember("small", "enough")
    journal.close()


def test_a_commit_that_fails_leaves_no_transaction_behind(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")

    def refuse_to_commit() -> None:
        with journal.transaction():
            journal.execute(
                "CREATE TABLE a (id INTEGER PRIMARY KEY, b REFERENCES a DEFERRABLE INITIALLY DEFERRED)"
            )
            journal.execute("INSERT INTO a VALUES (1, 2)")

    journal._connection.execute("PRAGMA foreign_keys = ON")
    with pytest.raises(sqlite3.IntegrityError):
        refuse_to_commit()
    with journal.transaction():
        journal.remember("works", "again")
    journal.close()


def test_what_is_over_is_forgotten_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hosts.agent.plans.KEPT_AT_MOST", 3)
    journal = Journal(tmp_path / "journal")
    table = Plans(journal, clock=utc_now)
    for number in range(1, 11):
        table.add("inspect", Inspect(), ORIGIN, lease_id=None, locks=())
        if number != 2:
            table.set_state(number, "done")
    assert [plan.plan_id for plan in table.latest(20)] == [10, 9, 8, 7, 2]
    journal.close()


def test_numbers_go_on_after_a_receipt_and_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    spool = a_spool(journal)
    spool.add(Accepted(), ORIGIN)
    spool.forget(journal_id=journal.journal_id, through=1)
    journal.close()
    journal = Journal(tmp_path / "journal")
    assert a_spool(journal).add(Accepted(), ORIGIN) == 2
    journal.close()


def test_a_report_is_signed_as_a_report(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    spool = a_spool(journal)
    spool.add(Accepted(), Origin("lease:1", 3, UUID(int=9)))
    ((sequence, envelope),) = spool.unreceipted(after=0, limit=10)
    keys = {key_id(KEY.verify_key): KEY.verify_key}
    report = decode_report(Verifier(keys, REPORT).open(envelope))
    assert (report.sequence, report.journal_id) == (sequence, journal.journal_id)
    assert (report.subject, report.generation, report.command_id) == ("lease:1", 3, UUID(int=9))
    with pytest.raises(ForgedMessage):
        Verifier(keys, COMMAND).open(envelope)
    journal.close()


def plans(tmp_path: Path, *locks: set[str]) -> list[Plan]:
    journal = Journal(tmp_path / "journal")
    table = Plans(journal, clock=utc_now)
    for wanted in locks:
        table.add("inspect", Inspect(), ORIGIN, lease_id=None, locks=wanted)
    found = table.open()
    journal.close()
    return found


def numbers(ready: list[Plan]) -> list[int]:
    return [plan.plan_id for plan in ready]


def test_plans_that_share_nothing_run_at_once(tmp_path: Path) -> None:
    open_plans = plans(tmp_path, {gpu_lock("a")}, {gpu_lock("b")}, set())
    assert numbers(runnable(open_plans, [])) == [1, 2, 3]


def test_plans_for_one_gpu_run_in_their_order(tmp_path: Path) -> None:
    a, b, lease = gpu_lock("a"), gpu_lock("b"), lease_lock(UUID(int=1))
    open_plans = plans(tmp_path, {a, lease}, {a, b}, {b}, {lease})
    assert numbers(runnable(open_plans, [])) == [1]
    assert numbers(runnable(open_plans, [1])) == []
    assert numbers(runnable(open_plans[1:], [])) == [2, 4]
