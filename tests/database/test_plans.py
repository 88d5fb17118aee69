"""Statements stay prepared when a booking is refused, and are forgotten when a table changes."""

from __future__ import annotations

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
