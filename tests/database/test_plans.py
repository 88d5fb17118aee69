"""Statements stay prepared when a booking is refused, until a table changes; moments come back in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import connection, transaction

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
