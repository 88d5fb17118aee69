"""The rules that the database itself enforces, tried with the code above it out of the way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connection, models, transaction
from django.db.models import F

from hosts.models import Gpu, ReceivedReport
from leasing.actors import SYSTEM
from leasing.audit.log import record
from leasing.audit.sealer import seal
from leasing.checks import require_guards
from leasing.guards import NO_OVERLAP, Guard, guards_of, install_guards, missing_guards
from leasing.models import AuditEntry, AuditLeaf, Hold, ScrubRecord, TreeHead
from tests.domain.ground import Ground

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
GUARDS = guards_of(connection)


def hold(ground: Ground, gpu: Gpu, start: float, end: float) -> Hold:
    lease = ground.lease()
    return Hold.objects.create(
        lease=lease, gpu=gpu, starts_at=ground.now + start * HOUR, ends_at=ground.now + end * HOUR
    )


def refused(name: str) -> Any:
    return pytest.raises(IntegrityError, match=name)


@pytest.mark.parametrize(
    ("start", "end"), [(1, 3), (0, 2), (2, 4), (1.5, 2.5), (0, 5), (2.999, 9), (-5, 1.001), (1, 1.0001)]
)
def test_a_hold_that_overlaps_another_is_refused(ground: Ground, start: float, end: float) -> None:
    hold(ground, ground.gpu, 1, 3)
    with refused(NO_OVERLAP), transaction.atomic():
        hold(ground, ground.gpu, start, end)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (3, 4), (4, 5), (-2, -1)])
def test_holds_that_touch_or_lie_apart_are_taken(ground: Ground, start: float, end: float) -> None:
    hold(ground, ground.gpu, 1, 3)
    hold(ground, ground.gpu, start, end)
    assert Hold.objects.count() == 2


def test_another_gpu_may_be_held_at_the_same_time(ground: Ground) -> None:
    hold(ground, ground.gpu, 1, 3)
    hold(ground, ground.other_gpu, 1, 3)


def test_a_hold_between_two_others_must_fit(ground: Ground) -> None:
    hold(ground, ground.gpu, 0, 1)
    hold(ground, ground.gpu, 3, 4)
    hold(ground, ground.gpu, 1, 2)
    with refused(NO_OVERLAP), transaction.atomic():
        hold(ground, ground.gpu, 1.5, 2.5)
    with refused(NO_OVERLAP), transaction.atomic():
        hold(ground, ground.gpu, 2, 3.5)


def test_a_hold_cannot_grow_into_the_next_nor_move_onto_it(ground: Ground) -> None:
    first, _ = hold(ground, ground.gpu, 0, 1), hold(ground, ground.gpu, 2, 3)
    with refused(NO_OVERLAP), transaction.atomic():
        Hold.objects.filter(pk=first.pk).update(ends_at=F("ends_at") + 2 * HOUR)
    elsewhere = hold(ground, ground.other_gpu, 2.5, 4)
    with refused(NO_OVERLAP), transaction.atomic():
        Hold.objects.filter(pk=elsewhere.pk).update(gpu=ground.gpu)
    Hold.objects.filter(pk=first.pk).update(ends_at=F("ends_at") + HOUR)


def test_an_empty_hold_is_refused(ground: Ground) -> None:
    with refused("leasing_hold_not_empty"), transaction.atomic():
        hold(ground, ground.gpu, 1, 1)


@pytest.fixture
def proofs(ground: Ground) -> dict[type[models.Model], models.Model]:
    """One row in each append-only table."""
    entry = record(action="test", actor=SYSTEM, subject="test:1", now=ground.now)
    seal(ground.now)
    report = ReceivedReport.objects.create(
        host=ground.host, journal_id=ground.host.pk, sequence=1, envelope="{}", received_at=ground.now
    )
    scrub = ScrubRecord.objects.create(
        gpu=ground.gpu,
        tenure=0,
        report=report,
        entry=entry,
        evidence={},
        passed=True,
        simulated=True,
        finished_at=ground.now,
        recorded_at=ground.now,
    )
    return {
        AuditEntry: entry,
        AuditLeaf: entry.leaf,
        TreeHead: TreeHead.objects.get(),
        ReceivedReport: report,
        ScrubRecord: scrub,
    }


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (AuditEntry, {"text": "{}"}),
        (AuditEntry, {"actor": "nobody"}),
        (AuditLeaf, {"leaf_hash": "00"}),
        (TreeHead, {"root_hash": "00"}),
        (TreeHead, {"size": 99}),
        (ReceivedReport, {"envelope": "forged"}),
        (ReceivedReport, {"received_at": F("received_at") + HOUR}),
        (ScrubRecord, {"passed": False}),
    ],
)
def test_proof_cannot_be_changed(
    proofs: dict[type[models.Model], models.Model], model: type[models.Model], change: dict[str, Any]
) -> None:
    del proofs
    with refused(f"{model._meta.db_table}_append_only"), transaction.atomic():
        model._default_manager.update(**change)


@pytest.mark.parametrize("model", [AuditEntry, AuditLeaf, TreeHead, ReceivedReport, ScrubRecord])
def test_proof_cannot_be_deleted(
    proofs: dict[type[models.Model], models.Model], model: type[models.Model]
) -> None:
    table = model._meta.db_table
    with refused(f"{table}_append_only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table}")  # noqa: S608
    assert model._default_manager.filter(pk=proofs[model].pk).exists()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no TRUNCATE")
@pytest.mark.parametrize("model", [AuditEntry, AuditLeaf, TreeHead, ReceivedReport, ScrubRecord])
def test_proof_cannot_be_truncated(
    proofs: dict[type[models.Model], models.Model], model: type[models.Model]
) -> None:
    table = model._meta.db_table
    with refused(f"{table}_append_only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(f"TRUNCATE {table} CASCADE")
    assert proofs[model]._meta.model._default_manager.exists()


def test_what_is_meant_to_be_filled_in_later_can_be(
    proofs: dict[type[models.Model], models.Model], ground: Ground
) -> None:
    report = proofs[ReceivedReport]
    assert isinstance(report, ReceivedReport)
    report.applied_at, report.verdict = ground.now, "applied"
    report.save()
    TreeHead.objects.update(anchored_at=ground.now + HOUR)
    assert ReceivedReport.objects.get().verdict == "applied"


def drop(guard: Guard) -> None:
    with connection.cursor() as cursor:
        if guard.kind == "CONSTRAINT":
            cursor.execute(f"ALTER TABLE {guard.table} DROP CONSTRAINT {guard.name}")
        else:
            on_table = f" ON {guard.table}" if connection.vendor == "postgresql" else ""
            cursor.execute(f"DROP TRIGGER {guard.name}{on_table}")


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_missing_guard_is_noticed_and_put_back(guard: Guard) -> None:
    assert missing_guards(connection) == []
    drop(guard)
    assert missing_guards(connection) == [guard.name]
    with pytest.raises(ImproperlyConfigured, match=guard.name):
        require_guards()
    errors = run_checks(databases=["default"], tags=["database"], include_deployment_checks=True)
    assert [error.id for error in errors] == ["leasing.E001"]
    install_guards(connection)
    assert missing_guards(connection) == []
    require_guards()


def test_an_altered_guard_is_noticed_and_mended() -> None:
    table = AuditEntry._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE OR REPLACE FUNCTION leasing_refuse() RETURNS trigger LANGUAGE plpgsql"
                " AS $$ BEGIN RETURN NEW; END $$"
            )
        else:
            cursor.execute(f"DROP TRIGGER {table}_append_only_update")
            cursor.execute(
                f"CREATE TRIGGER {table}_append_only_update BEFORE UPDATE ON {table} BEGIN SELECT 1; END"
            )
    assert f"{table}_append_only_update" in missing_guards(connection)
    install_guards(connection)
    assert missing_guards(connection) == []


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite's triggers cannot be disabled")
def test_a_disabled_guard_is_noticed() -> None:
    table = AuditEntry._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_append_only_delete")
    assert missing_guards(connection) == [f"{table}_append_only_delete"]


def test_installing_again_changes_nothing(django_assert_num_queries: Any) -> None:
    statements = 2
    with django_assert_num_queries(statements) as captured:
        install_guards(connection)
    assert all(query["sql"].lstrip().startswith("SELECT") for query in captured.captured_queries)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", [1, 2])
def test_a_flushed_test_database_is_guarded_again(round_: int, ground: Ground) -> None:
    record(action="test", actor=SYSTEM, subject=f"test:{round_}", now=ground.now)
    assert AuditEntry.objects.filter(action="test").count() == 1
    assert missing_guards(connection) == []
