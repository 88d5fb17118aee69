"""How many GPUs of a pool are free, counted by the database: what is read does not grow with the bookings.

Times are whole minutes since 1970. A GPU counts as taken at a minute if it is taken at the instant at which
that minute begins; nothing can be leased for less than a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection

from hosts.models import Gpu, GpuModel
from leasing.models import Closure, Hold
from leasing.openings.spans import EPOCH
from leasing.states.gpu import BOOKABLE

MINUTE = timedelta(minutes=1)
NEVER = 1 << 40

# The first whole minute at or after a moment. SQLite keeps moments as text, with a fraction only if there is
# one.
_MINUTE = {
    "postgresql": "CAST(ceil(date_part('epoch', {column}) / 60) AS bigint)",
    "sqlite": "((CAST(strftime('%%s', {column}) AS integer) + 59 + (length({column}) > 19)) / 60)",
}
_GREATEST = {"postgresql": "greatest", "sqlite": "max"}

# `held` are holds, and never overlap on one GPU. Of each thing that is counted, `out` are the stretches in
# which GPUs are closed or out of service; `apart` parts them, and what is held of the same GPUs, into pieces
# that do not overlap. `level` has a row for each minute at which something changes, and for each edge of a
# step.
_GPUS = """
gpu AS (SELECT id, host_id, state, state_since FROM {gpus} WHERE model_id = %(model)s),
held AS NOT MATERIALIZED (
    SELECT h.gpu_id, h.starts_at, h.ends_at FROM {holds} h JOIN gpu ON gpu.id = h.gpu_id
    WHERE h.starts_at < %(until)s AND h.ends_at > %(since)s
),
"""
_COUNTED = """
out{n} AS (
    SELECT gpu.id AS gpu_id, {closure_starts} AS starts, coalesce({closure_ends}, {never}) AS ends
    FROM {closures} c JOIN gpu ON gpu.host_id = c.host_id AND (c.gpu_id IS NULL OR c.gpu_id = gpu.id)
    WHERE c.starts_at < %(until)s AND (c.ends_at IS NULL OR c.ends_at > %(since)s)
    UNION ALL
    SELECT gpu.id, {state_since}, {never} FROM gpu WHERE {states} AND state NOT IN ({bookable})
),
stretch{n}(gpu_id, starts, ends) AS (SELECT gpu_id, starts, ends FROM out{n} {held_too}),
apart{n} AS (
    SELECT {greatest}(starts, coalesce(max(ends) OVER (
        PARTITION BY gpu_id ORDER BY starts, ends ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), starts)) AS starts, ends
    FROM stretch{n}
),
taken{n}(starts, ends, gpus) AS (SELECT starts, ends, 1 FROM apart{n} {held_alone}),
"""
_HELD_TOO = """
    UNION ALL SELECT gpu_id, {hold_starts}, {hold_ends} FROM held WHERE gpu_id IN (SELECT gpu_id FROM out{n})
"""
_HELD_ALONE = """
    UNION ALL
    SELECT {hold_starts}, {hold_ends}, CAST(count(*) AS integer) FROM held
    WHERE gpu_id NOT IN (SELECT gpu_id FROM out{n})
    GROUP BY starts_at, ends_at
"""
_CHANGES = """
    SELECT {greatest}(starts, {first}), {more}, 0 FROM taken{n} WHERE starts < ends AND ends > {first}
    UNION ALL
    SELECT ends, {fewer}, 0 FROM taken{n} WHERE starts < ends AND ends > {first}
    UNION ALL
"""
_LEVEL = """
change(at, {deltas}, edge) AS ({changes} SELECT * FROM (VALUES {edges}) AS edges),
level(at, {takens}, step) AS (
    SELECT at, {sums}, sum(sum(edge)) OVER (ORDER BY at) FROM change GROUP BY at
)
"""


@dataclass(frozen=True)
class What:
    """Which GPUs are counted, in terms of the statement above."""

    held: bool = False
    states: bool = True


# Promised, closed or out of service; one of the last two; closed alone.
TAKEN = What(held=True)
UNAVAILABLE = What()
CLOSED = What(states=False)


class Level(NamedTuple):
    """The fewest and the most GPUs that are counted at a moment of a step."""

    fewest: int
    most: int


@dataclass(frozen=True)
class Levels:
    """Of a model with so many GPUs, for each thing that is counted its level in each step."""

    gpus: int
    of: list[list[Level]]


def levels(whats: Sequence[What], model: GpuModel, edges: Sequence[datetime]) -> Levels:
    """What is in the steps between edges; all of it is asked at once."""
    last = _minute_of(edges[-1])
    ends = ", ".join(f"min(taken{n}), max(taken{n})" for n in range(len(whats)))
    tail = (
        f"SELECT (SELECT count(*) FROM gpu), {ends} FROM level WHERE at < {last:d}"
        " GROUP BY step ORDER BY step"
    )
    rows = _ask(whats, tail, model, edges)
    of = [[Level(*row[1 + 2 * n : 3 + 2 * n]) for row in rows] for n in range(len(whats))]
    return Levels(rows[0][0], of)


def changes(
    what: What, model: GpuModel, since: datetime, until: datetime, *, limit: int
) -> list[tuple[datetime, int]]:
    """The moments from which on another number of GPUs is, and that number; the first `limit` of them."""
    last = _minute_of(until)
    tail = f"SELECT at, taken0 FROM level WHERE at < {last:d} ORDER BY at LIMIT {limit:d}"
    rows = _ask([what], tail, model, [since, until])
    return [(EPOCH + at * MINUTE, taken) for at, taken in rows]


def _ask(
    whats: Sequence[What], tail: str, model: GpuModel, edges: Sequence[datetime]
) -> list[tuple[int, ...]]:
    with connection.cursor() as cursor:
        adapted = connection.ops.adapt_datetimefield_value
        window = {"since": adapted(edges[0]), "until": adapted(edges[-1])}
        cursor.execute(_statement(whats, edges) + tail, {"model": model.pk, **window})
        return [tuple(map(int, row)) for row in cursor.fetchall()]


def _statement(whats: Sequence[What], edges: Sequence[datetime]) -> str:
    minutes = [_minute_of(edge) for edge in edges]
    names = {
        "gpus": Gpu._meta.db_table,
        "holds": Hold._meta.db_table,
        "closures": Closure._meta.db_table,
        "never": NEVER,
        "bookable": ", ".join(f"'{state}'" for state in sorted(BOOKABLE)),
        "greatest": _GREATEST[connection.vendor],
        "first": minutes[0],
        "closure_starts": _minute("c.starts_at"),
        "closure_ends": _minute("c.ends_at"),
        "hold_starts": _minute("starts_at"),
        "hold_ends": _minute("ends_at"),
        "state_since": _minute("state_since"),
    }
    count = len(whats)
    level = _LEVEL.format(
        deltas=", ".join(f"delta{n}" for n in range(count)),
        takens=", ".join(f"taken{n}" for n in range(count)),
        sums=", ".join(f"sum(CAST(sum(delta{n}) AS integer)) OVER (ORDER BY at)" for n in range(count)),
        changes="".join(_changes(n, count, names) for n in range(count)),
        edges=", ".join(f"({minute:d}, {'0, ' * count}1)" for minute in minutes),
    )
    counted = "".join(_counted(what, n, names) for n, what in enumerate(whats))
    return f"WITH {_GPUS.format(**names)}{counted}{level}"


def _counted(what: What, n: int, names: dict[str, Any]) -> str:
    held = [text.format(n=n, **names) if what.held else "" for text in (_HELD_TOO, _HELD_ALONE)]
    states = "1 = 1" if what.states else "1 = 0"
    return _COUNTED.format(n=n, states=states, held_too=held[0], held_alone=held[1], **names)


def _changes(n: int, count: int, names: dict[str, Any]) -> str:
    """Only the delta of what is counted as `n` is another than 0."""
    more = ", ".join("gpus" if number == n else "0" for number in range(count))
    return _CHANGES.format(n=n, more=more, fewer=more.replace("gpus", "-gpus"), **names)


def _minute(column: str) -> str:
    return _MINUTE[connection.vendor].format(column=column)


def _minute_of(moment: datetime) -> int:
    return (moment - EPOCH) // MINUTE
