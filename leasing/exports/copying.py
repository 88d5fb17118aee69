"""CSV by PostgreSQL's COPY: the server writes what writers.write_csv writes, and we only pass it on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db import connection

from leasing.exports.columns import USAGE
from leasing.exports.filter import Billed
from leasing.exports.lines import ORDER, PER_WHOLE, counted

_MOMENT = "TO_CHAR({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
# '=', '+', '-', '@', tab and CR: see columns.FORMULA_STARTS.
_NEUTRAL = (
    "CASE WHEN {0} = '' THEN NULL WHEN ASCII({0}) IN (61, 43, 45, 64, 9, 13)"
    " THEN '''' || TRANSLATE({0}, CHR(13), ' ') WHEN STRPOS({0}, CHR(13)) > 0"
    " THEN TRANSLATE({0}, CHR(13), ' ') ELSE {0} END"
)
_CELLS = {
    "tenant": _NEUTRAL.format("tenant"),
    "person": _NEUTRAL.format("person"),
    "flavor": _NEUTRAL.format("flavor"),
    "gpu_model": _NEUTRAL.format("model_name"),
    "starts_at": _MOMENT.format("starts_at"),
    "ends_at": _MOMENT.format("ends_at"),
    "rate_per_hour": "rate",
    "cause": (
        "CASE WHEN is_open THEN cause || ' (open)' WHEN is_credit THEN cause || ' (credit)' ELSE cause END"
    ),
    "project": _NEUTRAL.format("project"),
    "cost_centre": _NEUTRAL.format("cost_centre"),
    "amount": f"CASE WHEN unit = {PER_WHOLE} THEN minor ELSE (minor * 0.01)::numeric(18, 2) END",
}


def copy_csv(billed: Billed, *, now: datetime) -> Iterator[bytes]:
    statement, parameters = counted(billed, now=now)
    cells = ", ".join(_CELLS.get(column.name, column.name) for column in USAGE)
    select = f"{statement} SELECT {cells} FROM counted {ORDER}"
    yield (",".join(column.name for column in USAGE) + "\n").encode()
    with connection.cursor() as cursor:
        # COPY takes no parameters: they are quoted by psycopg.
        told = cursor.db.ops.compose_sql(select, parameters)
        with cursor.copy(f"COPY ({told}) TO STDOUT (FORMAT csv)") as rows:
            for row in rows:
                yield bytes(row)
