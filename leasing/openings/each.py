"""How much is open in each of many spans, asked at once: what a calendar shows of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from leasing.openings.search import BLOCKS, LONGEST, Pool, Scope, covering, width
from leasing.openings.spans import UNENDING, classes_from
from leasing.statements import ask

Window = tuple[int, int]
_COLUMNS = ("starts", "ends", "fine", "fines", "middle", "middles", "coarse", "coarses")


def most_open_in_each(pool: Pool, windows: Sequence[Window]) -> dict[Window, int]:
    """How many GPUs of one host, or node, are free throughout each `[starts, ends)`, at most.

    Less than the pool's count is as good as none: 0.
    """
    asked = list(dict.fromkeys(windows))
    if not asked:
        return {}
    values = {"model": pool.model_id, "count": pool.count, "scope": pool.scopes[0]}
    for number, (starts, ends) in enumerate(asked):
        fine, middle, coarse = classes_from(ends - starts)
        row = (starts, ends, fine.start, len(fine), middle.start, len(middle), coarse.start, len(coarse))
        values |= {f"{name}{number}": value for name, value in zip(_COLUMNS, row, strict=True)}
    rows: list[tuple[int, int]] = ask(_statement(len(asked)), values)
    return {asked[number]: gpus for number, gpus in rows}


# For each class of lengths into which a span may have to look: its shift, which of the span's own numbers it
# counts from, and how far.
_KINDS = ", ".join(
    ["(-1, 0, 0)", "(0, 1, 0)"]
    + [f"({shift}, {part}, {step})" for shift, part in ((4, 2), (0, 3), (8, 4)) for step in range(16)]
)
_CLASSES = f"""(
    SELECT shift, number, {LONGEST} AS longest FROM (
        SELECT k.shift AS shift, k.step + CASE k.part WHEN 0 THEN 0 WHEN 1 THEN {UNENDING}
            WHEN 2 THEN a.middle WHEN 3 THEN a.fine ELSE a.coarse END AS number
        FROM kinds k
        WHERE k.step < CASE k.part WHEN 2 THEN a.middles WHEN 3 THEN a.fines WHEN 4 THEN a.coarses ELSE 1 END
    ) AS numbered
) AS c"""


@lru_cache(maxsize=64)
def _statement(count: int) -> str:
    """One number of GPUs after the other is tried for each span, the most first."""
    rows = ", ".join(
        f"({number}, %(model)s, %(scope)s, {', '.join(f'%({name}{number})s' for name in _COLUMNS)})"
        for number in range(count)
    )
    probes = f"SELECT 1 FROM scopes s CROSS JOIN {_CLASSES} WHERE {covering('t.next')} IS NOT NULL"
    classes = ", ".join(f"CAST({name} AS integer) AS {name}" for name in _COLUMNS[2:])
    of_model = f"{BLOCKS} WHERE model_id = %(model)s"
    return f"""WITH RECURSIVE
    given(n, model_id, scope, {", ".join(_COLUMNS)}) AS (VALUES {rows}),
    asked AS MATERIALIZED (
        SELECT n, CAST(model_id AS bigint) AS model_id, CAST(starts AS bigint) AS starts,
            CAST(ends AS bigint) AS ends, {classes}
        FROM given
    ),
    scopes(scope) AS (
        SELECT CAST(%(scope)s AS integer) WHERE EXISTS (SELECT 1 FROM {of_model} AND nodes > 1)
        UNION ALL SELECT {Scope.ONLY_NODE:d} WHERE EXISTS (SELECT 1 FROM {of_model} AND nodes <= 1)
    ),
    kinds(shift, part, step) AS (VALUES {_KINDS}),
    tried(n, gpus, found, next) AS (
        SELECT n, 0, 1 = 0, {width("max")} FROM asked a
        UNION ALL
        SELECT t.n, t.next, EXISTS ({probes}), {width("max", "AND gpus < t.next")}
        FROM tried t JOIN asked a ON a.n = t.n WHERE NOT t.found AND t.next >= %(count)s
    )
    SELECT n, max(CASE WHEN found THEN gpus ELSE 0 END) FROM tried GROUP BY n"""
