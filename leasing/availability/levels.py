"""How many GPUs of a pool are free, counted by the database: what is read does not grow with the bookings.

Times are whole minutes since 1970. A GPU counts as taken at a minute if it is taken at the instant at which
that minute begins; nothing can be leased for less than a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

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

# `out` are stretches in which GPUs are closed or out of service, `held` those in which they are promised.
# Stretches of one GPU in `held` never overlap; where some are `out`, `apart` parts all of them into pieces
# that do not. `level` has a row for each minute at which something changes, and for each edge of a step.
_LEVELS = """
WITH gpu AS (SELECT id, host_id, state, state_since FROM {gpus} WHERE model_id = %(model)s),
out AS (
    SELECT gpu.id AS gpu_id, {closure_starts} AS starts, coalesce({closure_ends}, {never}) AS ends
    FROM {closures} c JOIN gpu ON gpu.host_id = c.host_id AND (c.gpu_id IS NULL OR c.gpu_id = gpu.id)
    WHERE c.starts_at < %(until)s AND (c.ends_at IS NULL OR c.ends_at > %(since)s)
    UNION ALL
    SELECT gpu.id, {state_since}, {never} FROM gpu WHERE {states} AND state NOT IN ({bookable})
),
held AS NOT MATERIALIZED (
    SELECT h.gpu_id, {hold_starts} AS starts, {hold_ends} AS ends
    FROM {holds} h JOIN gpu ON gpu.id = h.gpu_id
    WHERE h.starts_at < %(until)s AND h.ends_at > %(since)s
),
stretch AS ({stretches}),
apart AS (
    SELECT {greatest}(starts, coalesce(max(ends) OVER (
        PARTITION BY gpu_id ORDER BY starts, ends ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), starts)) AS starts, ends
    FROM stretch
),
taken AS ({taken}),
change(at, delta, edge) AS (
    SELECT {greatest}(starts, {first}), 1, 0 FROM taken WHERE starts < ends AND ends > {first}
    UNION ALL
    SELECT ends, -1, 0 FROM taken WHERE starts < ends AND ends > {first}
    UNION ALL
    SELECT * FROM (VALUES {edges}) AS edges
),
level(at, taken, step) AS (
    SELECT at, sum(sum(delta)) OVER (ORDER BY at), sum(sum(edge)) OVER (ORDER BY at) FROM change GROUP BY at
)
"""


@dataclass(frozen=True)
class What:
    """Which GPUs are counted, in terms of the statement above."""

    stretches: str
    taken: str = "SELECT * FROM apart"
    states: bool = True


# Promised, closed or out of service; one of the last two; closed alone.
TAKEN = What(
    stretches="SELECT * FROM out UNION ALL SELECT * FROM held WHERE gpu_id IN (SELECT gpu_id FROM out)",
    taken="SELECT * FROM apart"
    " UNION ALL SELECT starts, ends FROM held WHERE gpu_id NOT IN (SELECT gpu_id FROM out)",
)
UNAVAILABLE = What(stretches="SELECT * FROM out")
CLOSED = What(stretches="SELECT * FROM out", states=False)


class Level(NamedTuple):
    """The fewest and the most GPUs that are counted at a moment of a step."""

    fewest: int
    most: int


def levels(what: What, model: GpuModel, edges: Sequence[datetime]) -> list[Level]:
    """For each step between two edges, how many GPUs are."""
    last = _minute_of(edges[-1])
    tail = f"SELECT min(taken), max(taken) FROM level WHERE at < {last:d} GROUP BY step ORDER BY step"
    return [Level(fewest, most) for fewest, most in _ask(what, tail, model, edges)]


def changes(
    what: What, model: GpuModel, since: datetime, until: datetime, *, limit: int
) -> list[tuple[datetime, int]]:
    """The moments from which on another number of GPUs is, and that number; the first `limit` of them."""
    last = _minute_of(until)
    tail = f"SELECT at, taken FROM level WHERE at < {last:d} ORDER BY at LIMIT {limit:d}"
    rows = _ask(what, tail, model, [since, until])
    return [(EPOCH + at * MINUTE, taken) for at, taken in rows]


def _ask(what: What, tail: str, model: GpuModel, edges: Sequence[datetime]) -> list[tuple[int, int]]:
    minutes = [_minute_of(edge) for edge in edges]
    names = {
        "gpus": Gpu._meta.db_table,
        "holds": Hold._meta.db_table,
        "closures": Closure._meta.db_table,
        "never": NEVER,
        "stretches": what.stretches,
        "taken": what.taken,
        "states": "1 = 1" if what.states else "1 = 0",
        "bookable": ", ".join(f"'{state}'" for state in sorted(BOOKABLE)),
        "greatest": _GREATEST[connection.vendor],
        "first": minutes[0],
        "edges": ", ".join(f"({minute:d}, 0, 1)" for minute in minutes),
        "closure_starts": _minute("c.starts_at"),
        "closure_ends": _minute("c.ends_at"),
        "hold_starts": _minute("h.starts_at"),
        "hold_ends": _minute("h.ends_at"),
        "state_since": _minute("state_since"),
    }
    with connection.cursor() as cursor:
        adapted = connection.ops.adapt_datetimefield_value
        window = {"since": adapted(edges[0]), "until": adapted(edges[-1])}
        cursor.execute(_LEVELS.format(**names) + tail, {"model": model.pk, **window})
        return [(int(one), int(other)) for one, other in cursor.fetchall()]


def _minute(column: str) -> str:
    return _MINUTE[connection.vendor].format(column=column)


def _minute_of(moment: datetime) -> int:
    return (moment - EPOCH) // MINUTE
