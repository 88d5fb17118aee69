"""Questions to the table of openings: whether a span is free, from when on, and until when at most.

An opening that covers `[a, b)` began by `a` and lasts until `b`. Looking through all that began by `a` would
take as long as the fleet is large; but one that covers has at least the length `b - a`, and one of a given
length that still lasts at `b` cannot have begun much earlier. So each class of lengths is probed for one row.
How many probes there are does not depend on the fleet, nor on what its openings look like.

Each question is one statement, whose text is always the same: the database plans it once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from leasing.locking import lock_of
from leasing.models import Block, Opening
from leasing.openings.spans import ALWAYS, FOREVER, LAST_BOUNDED, QUARTER, UNENDING, Span, classes_from
from leasing.statements import Columns, ask, ask_rows, columns_of, row_of

TABLE = Opening._meta.db_table
BLOCKS = Block._meta.db_table


class Scope(IntEnum):
    """Whose openings: of a host with several NUMA nodes, of one of these, or of a host that has only one."""

    SEVERAL_NODES = 0
    ONE_OF_SEVERAL = 1
    ONLY_NODE = 2


@dataclass(frozen=True)
class Pool:
    """Where to look: at least `count` GPUs of a model on one host, or on one NUMA node of it.

    `within` are the only blocks that serve; None: any block of the model.
    """

    model_id: int
    count: int
    one_node: bool = False
    within: frozenset[int] | None = None

    @property
    def scopes(self) -> tuple[Scope, Scope]:
        return (Scope.ONE_OF_SEVERAL if self.one_node else Scope.SEVERAL_NODES, Scope.ONLY_NODE)

    @property
    def bounds(self) -> str:
        """A condition for openings: that they are of a block that serves."""
        if self.within is None:
            return ""
        return f"AND block_id IN ({', '.join(map(str, sorted(self.within))) or 0})"


def is_open(pool: Pool, starts: int, ends: int) -> bool:
    """Whether GPUs of the pool are free throughout `[starts, ends)`."""
    return bool(_answer(_is_open(pool.bounds), _values(pool, starts, ends)))


def first_start(pool: Pool, starts: int, ends: int, *, length: int) -> int | None:
    """`starts`, if GPUs of the pool are free throughout `[starts, ends)`.

    Otherwise when the first opening begins, later than that, that lasts for `length`, which is not shorter.
    """
    return _answer(_first_start(pool.bounds), _values(pool, starts, ends, length))


def latest_end(pool: Pool, starts: int) -> int | None:
    """How long GPUs of the pool that are free at `starts` stay free together, at most."""
    return _answer(_latest_end(pool.bounds), _values(pool, starts, starts))


def longest_open(pool: Pool, starts: int, ends: int) -> list[Span]:
    """The openings of the pool that touch `[starts, ends)` and lie in no other of them, by start.

    What was open before counts from `starts` on. This one does look through all openings of the model.
    """
    return [Span(*row) for row in ask(_longest_open(pool.bounds), _values(pool, starts, ends))]


def tightest_block(pool: Pool, starts: int, ends: int, *, without: Collection[int] = ()) -> int | None:
    """A block that is free throughout `[starts, ends)`: one whose opening has the fewest GPUs.

    So a host on which something is booked around that time serves before one that is wholly free.
    """
    statement, values = _tightest_but(pool, (starts, ends), without)
    return _answer(f"{statement} {_FOUND}", values)


def lock_tightest_block(pool: Pool, starts: int, ends: int, *, without: Collection[int] = ()) -> Block | None:
    """The same block, locked; of several as tight, one that nobody else has locked at the moment.

    What was free when it was found may be taken once it is locked.
    """
    span = starts, ends
    tightest = found = _find_and_lock(pool, span, without)
    passed = set(without)
    while found.block is None and found.block_id is not None and len(passed) - len(without) < _OTHERS:
        passed.add(found.block_id)
        found = _find_and_lock(pool, span, passed, of=tightest.gpus)
    if found.block is not None or tightest.block_id is None:
        return found.block
    wanted = f"{_A_BLOCK} b.id = %(id)s {lock_of('b')}"
    return next(iter(ask_rows(Block, wanted, {"id": tightest.block_id})), None)


class _Found(NamedTuple):
    """A block, how many GPUs its opening has, and the block itself if nobody else had locked it."""

    block_id: int | None
    gpus: int | None
    block: Block | None


def _find_and_lock(
    pool: Pool, span: tuple[int, int], without: Collection[int], *, of: int | None = None
) -> _Found:
    """One that is as tight as can be, or whose opening has `of` GPUs; locked, if nobody else has it."""
    statement, values = _tightest_but(pool, span, without, of=of)
    wanted = f"{_A_BLOCK} b.id = ({_FOUND}) {lock_of('b', skip_locked=True)}"
    found = f"SELECT f.*, l.* FROM ({_FOUND_GPUS}) f LEFT JOIN ({wanted}) l ON TRUE"
    ((block_id, gpus, *columns),) = ask(f"{statement} {found}", values, _FOUND_COLUMNS)
    return _Found(block_id, gpus, None if columns[0] is None else row_of(Block, columns))


def _tightest_but(
    pool: Pool, span: tuple[int, int], without: Collection[int], *, of: int | None = None
) -> tuple[str, dict[str, int]]:
    """The statement and its values; `of` so many GPUs only. Only further blocks left out are in its text."""
    first, more = sorted(without)[:_LEFT_OUT], sorted(without)[_LEFT_OUT:]
    first += [0] * (_LEFT_OUT - len(first))
    values = {f"other{number}": block_id for number, block_id in enumerate(first)}
    wanted = pool if of is None else replace(pool, count=of)
    most = _ANY_NUMBER if of is None else of
    return _tightest(pool.bounds, tuple(more)), {**_values(wanted, *span), **values, "most": most}


def _answer(statement: str, values: dict[str, int]) -> int | None:
    rows: list[tuple[int | None]] = ask(statement, values)
    return rows[0][0]


def _values(pool: Pool, starts: int, ends: int, length: int = 0) -> dict[str, int]:
    fine, middle, coarse = classes_from(ends - starts)
    return {
        "model": pool.model_id,
        "count": pool.count,
        "scope": pool.scopes[0],
        "starts": starts,
        "ends": ends,
        "length": length,
        "fine": fine.start,
        "fines": len(fine),
        "middle": middle.start,
        "middles": len(middle),
        "coarse": coarse.start,
        "coarses": len(coarse),
    }


# What is asked for is a row, so that the plan for any values is as good as one for these, and is kept.
_ASKED = """
asked(
    model_id, count, scope, starts, ends, length, fine, fines, middle, middles, coarse, coarses
) AS MATERIALIZED (
    SELECT CAST(%(model)s AS bigint), CAST(%(count)s AS integer), CAST(%(scope)s AS integer),
        CAST(%(starts)s AS bigint), CAST(%(ends)s AS bigint), CAST(%(length)s AS bigint),
        CAST(%(fine)s AS integer), CAST(%(fines)s AS integer), CAST(%(middle)s AS integer),
        CAST(%(middles)s AS integer), CAST(%(coarse)s AS integer), CAST(%(coarses)s AS integer)
)"""
_BLOCKS_OF_MODEL = f"{BLOCKS} WHERE model_id = (SELECT model_id FROM asked)"
_SCOPES = f"""
scopes(scope) AS (
    SELECT scope FROM asked WHERE EXISTS (SELECT 1 FROM {_BLOCKS_OF_MODEL} AND nodes > 1)
    UNION ALL SELECT {Scope.ONLY_NODE:d} WHERE EXISTS (SELECT 1 FROM {_BLOCKS_OF_MODEL} AND nodes <= 1)
)"""


def width(which: str, bound: str = "") -> str:
    """The least (`min`) or greatest (`max`) number of GPUs in a bound of an opening for `a`, or NULL."""
    of_scope = f"SELECT {which}(gpus) FROM {TABLE} WHERE model_id = a.model_id AND scope = s.scope {bound}"
    return f"(SELECT {which}(({of_scope})) FROM scopes s)"


# The numbers of GPUs that openings have: in an empty fleet all have as many, and others need not be tried.
_WIDTHS = f"""
widths(gpus) AS (
    SELECT {width("min", "AND gpus >= a.count")} FROM asked a
    UNION ALL
    SELECT {width("min", "AND gpus > w.gpus")} FROM widths w CROSS JOIN asked a WHERE w.gpus IS NOT NULL
)"""
LONGEST = f"""CASE WHEN shift < 0 OR (number + 1) << shift > {LAST_BOUNDED} THEN {FOREVER}
        ELSE CAST((number + 1) << shift AS bigint) * {QUARTER} END"""
# The classes of lengths to look into, those without a start and without an end first; no opening of a class
# is as long as its `longest`.
_CLASSES = f"""
steps(step) AS (VALUES {", ".join(f"({step})" for step in range(16))}),
numbers(shift, number) AS (
    SELECT -1, 0
    UNION ALL SELECT 0, {UNENDING}
    UNION ALL SELECT 4, middle + step FROM steps CROSS JOIN asked WHERE step < middles
    UNION ALL SELECT 0, fine + step FROM steps CROSS JOIN asked WHERE step < fines
    UNION ALL SELECT 8, coarse + step FROM steps CROSS JOIN asked WHERE step < coarses
),
classes(shift, number, longest) AS (
    SELECT shift, number, {LONGEST} FROM numbers
)"""
_WHERE = f"WITH RECURSIVE {_ASKED}, {_SCOPES}, {_CLASSES}"


def _probe(what: str, held: str, *, others: str, gpus: str = "w.gpus", unbegun: str = "") -> str:
    """What one row of a class `c` says, of openings with so many GPUs in a scope `s`.

    `held` and, for those that never began, `unbegun` say which row it is; `others` leaves some out.
    """
    openings = f"{TABLE} WHERE model_id = a.model_id AND scope = s.scope AND gpus = {gpus} {others}"
    fine, middle, coarse = (
        f"(SELECT {what} FROM {openings} AND {column} = c.number {held})"
        for column in ("fine", "middle", "coarse")
    )
    since_always = f"(SELECT {what} FROM {openings} AND starts = {ALWAYS} {unbegun})" if unbegun else "NULL"
    return (
        f"CASE c.shift WHEN 0 THEN {fine} WHEN 4 THEN {middle} WHEN 8 THEN {coarse} ELSE {since_always} END"
    )


def covering(gpus: str = "w.gpus", others: str = "") -> str:
    """A block of a class `c` that covers what `a` asks for, in a scope `s`, or NULL."""
    return _probe(
        "block_id",
        "AND starts <= a.starts AND starts > a.ends - c.longest AND ends >= a.ends"
        " ORDER BY starts DESC LIMIT 1",
        others=others,
        gpus=gpus,
        unbegun="AND ends >= a.ends ORDER BY ends DESC LIMIT 1",
    )


_EACH = "FROM asked a CROSS JOIN widths w CROSS JOIN scopes s CROSS JOIN classes c"


def _covered(bounds: str) -> str:
    return f"EXISTS (SELECT 1 {_EACH} WHERE {covering(others=bounds)} IS NOT NULL)"


@lru_cache(maxsize=16)
def _is_open(bounds: str) -> str:
    return f"{_WHERE}, {_WIDTHS} SELECT {_covered(bounds)}"


@lru_cache(maxsize=16)
def _first_start(bounds: str) -> str:
    held = "AND starts > a.starts AND ends - starts >= a.length ORDER BY starts LIMIT 1"
    following = f"SELECT min({_probe('starts', held, others=bounds)}) {_EACH}"
    found = f"CASE WHEN {_covered(bounds)} THEN starts ELSE ({following}) END"
    return f"{_WHERE}, {_WIDTHS} SELECT {found} FROM asked"


@lru_cache(maxsize=16)
def _latest_end(bounds: str) -> str:
    lasting = _probe(
        "max(ends)",
        "AND starts <= a.starts AND starts > a.starts - c.longest AND ends > a.starts",
        others=bounds,
        unbegun="AND ends > a.starts",
    )
    return f"{_WHERE}, {_WIDTHS} SELECT max({lasting}) {_EACH}"


@lru_cache(maxsize=16)
def _longest_open(bounds: str) -> str:
    return f"""WITH RECURSIVE {_ASKED}, {_SCOPES}, {_WIDTHS},
    touching(starts, ends) AS (
        SELECT CASE WHEN o.starts > a.starts THEN o.starts ELSE a.starts END, o.ends
        FROM asked a CROSS JOIN widths w CROSS JOIN scopes s JOIN {TABLE} o
            ON o.model_id = a.model_id AND o.scope = s.scope AND o.gpus = w.gpus
        WHERE o.starts < a.ends AND o.ends > a.starts {bounds}
    ),
    reached(starts, ends, sooner) AS (
        SELECT starts, ends, max(ends) OVER (
            ORDER BY starts, ends DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) FROM touching
    )
    SELECT starts, ends FROM reached WHERE sooner IS NULL OR ends > sooner ORDER BY starts"""


# Each try is for more GPUs than the one before, and the last one may have found a block.
_FOUND = "SELECT max(block_id) FROM tried"
_FOUND_GPUS = "SELECT max(block_id) AS block_id, max(gpus) AS gpus FROM tried"
_FOUND_COLUMNS = Columns(None, None, *Block._meta.concrete_fields)
_A_BLOCK = f"SELECT {columns_of(Block, 'b')} FROM {BLOCKS} b WHERE"
# So many blocks to leave out are values of the statement.
_LEFT_OUT = 4
# So many blocks that others have locked are passed by, at most.
_OTHERS = 3
_ANY_NUMBER = 2**31 - 1


@lru_cache(maxsize=16)
def _tightest(bounds: str, without: tuple[int, ...]) -> str:
    """One number of GPUs after the other is tried, until a block is found."""
    given = [f"%(other{number})s" for number in range(_LEFT_OUT)]
    others = f"{bounds} AND block_id NOT IN ({', '.join([*given, *map(str, without)])})"
    probes = f"SELECT {covering('t.next', others)} AS found FROM scopes s CROSS JOIN classes c"
    return f"""{_WHERE},
    tried(gpus, block_id, next) AS (
        SELECT 0, CAST(NULL AS bigint), {width("min", "AND gpus >= a.count")} FROM asked a
        UNION ALL
        SELECT t.next, (SELECT found FROM ({probes}) AS probed WHERE found IS NOT NULL LIMIT 1),
            {width("min", "AND gpus > t.next")}
        FROM tried t CROSS JOIN asked a WHERE t.block_id IS NULL AND t.next <= CAST(%(most)s AS integer)
    )"""
