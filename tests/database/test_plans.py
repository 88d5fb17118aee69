"""Statements stay prepared when a booking is refused, until a table changes; moments come back in UTC.

And those of a booking are planned so that a plan for an empty fleet is no bad one an hour later.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.db.models import Model

from leasing.booking import request_lease
from leasing.models import Block, Flavor, Hold, Rate
from leasing.openings.upkeep import read, span_of
from leasing.spent import monthly_total
from tests.world import World

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite prepares nothing"),
]
MANY = 8


def prepared() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%%asked_often%%'")
        return int(cursor.fetchone()[0])


def ask_often() -> None:
    with connection.cursor() as cursor:
        for number in range(MANY):
            cursor.execute("SELECT %s + 1 AS asked_often", [number])


def refuse() -> None:
    ask_often()
    raise ValueError("refused")


@pytest.fixture(autouse=True)
def fresh_connection() -> None:
    connection.close()


def test_a_rollback_keeps_what_is_prepared() -> None:
    ask_often()
    with pytest.raises(ValueError, match="refused"), transaction.atomic():
        refuse()
    assert prepared() == 1
    with transaction.atomic(), pytest.raises(ValueError, match="refused"), transaction.atomic():
        refuse()
    assert prepared() == 1


def test_a_table_that_goes_takes_everything_with_it() -> None:
    ask_often()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE passing (id int)")
        cursor.execute("DROP TABLE passing")
    assert prepared() == 0


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 2, 9, 0, tzinfo=UTC),
        datetime(2026, 3, 2, 9, 0, 0, 500_000, tzinfo=UTC),
        datetime(1, 1, 2, 0, 0, tzinfo=UTC),
        datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
def test_moments_come_back_in_utc(zone: str, moment: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('TimeZone', %s, false)", [zone])
        cursor.execute("SELECT %s::timestamptz", [moment])
        ((found,),) = cursor.fetchall()
    assert (found, found.tzinfo) == (moment, UTC)


def rows_read(model: type[Model]) -> int:
    """In this transaction so far, and a little before."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0)"
            " FROM pg_stat_xact_user_tables WHERE relname = %s",
            [model._meta.db_table],
        )
        return int(cursor.fetchone()[0])


def book_often(world: World) -> None:
    for number in range(50):
        starts_at = world.now + timedelta(hours=2 * number + 1)
        request_lease(
            actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
            starts_at=starts_at, ends_at=starts_at + timedelta(hours=1), now=world.now,
        )  # fmt: skip


def test_a_plan_for_no_holds_reads_each_hold_a_few_times_when_there_are_many() -> None:
    world = World(gpus=4, concurrent_gpus=400)
    block = Block.objects.get(model=world.model)
    late = world.now + timedelta(hours=80)
    region = span_of(late, late + timedelta(hours=1))
    for _ in range(2 * MANY):  # until the plan is kept
        read(block, region)
    book_often(world)
    with transaction.atomic():
        read(block, region)
        assert rows_read(Hold) <= 4 * 4 * 50


def test_a_months_sum_looks_flavors_up_for_each_sum_and_not_for_each_booking() -> None:
    world = World(gpus=4, concurrent_gpus=400)
    book_often(world)
    rate = Rate.objects.get(flavor=world.flavor).per_hour
    with transaction.atomic():
        before = rows_read(Flavor)
        total = monthly_total(world.studio, world.now, world.now + timedelta(hours=200))
        assert rows_read(Flavor) - before <= 4
    assert total == {"EUR": 50 * rate}
