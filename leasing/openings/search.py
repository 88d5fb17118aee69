"""Questions to the table of openings: whether a span is free, from when on, and until when at most.

An opening that covers `[a, b)` began by `a` and lasts until `b`. Looking through all that began by `a` would
take as long as the fleet is large; but one that covers has at least the length `b - a`, and one of a given
length that still lasts at `b` cannot have begun much earlier. So each class of lengths is probed for one row.
How many probes there are does not depend on the fleet, nor on what its openings look like.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from django.db import connection
from django.db.models import Max, Min

from leasing.models import Block, Opening
from leasing.openings.spans import ALWAYS, UNENDING, Probe, probes

TABLE = Opening._meta.db_table
# Asks those that never began.
SINCE_ALWAYS = Probe(-1, 0)


class Scope(IntEnum):
    """Whose openings: of a host with several NUMA nodes, of one of these, or of a host that has only one."""

    SEVERAL_NODES = 0
    ONE_OF_SEVERAL = 1
    ONLY_NODE = 2


@dataclass(frozen=True)
class Pool:
    """Where to look: openings of these scopes with at least `count` GPUs of a model, at most `largest`."""

    model_id: int
    count: int
    largest: int
    scopes: tuple[Scope, ...]

    @property
    def widths(self) -> range:
        return range(self.count, self.largest + 1)


def pool(model_id: int, count: int, *, one_node: bool = False) -> Pool:
    """The GPUs of a model, `count` at a time on one host, or on one NUMA node of it."""
    # Each of these is one index probe; an empty block, of no nodes, does no harm.
    facts = Block.objects.filter(model_id=model_id).aggregate(
        largest=Max("gpus"), fewest_nodes=Min("nodes"), most_nodes=Max("nodes")
    )
    scopes = []
    if (facts["most_nodes"] or 0) > 1:
        scopes.append(Scope.ONE_OF_SEVERAL if one_node else Scope.SEVERAL_NODES)
    if (facts["fewest_nodes"] or 0) <= 1:
        scopes.append(Scope.ONLY_NODE)
    return Pool(model_id, count, facts["largest"] or 0, tuple(scopes))


def is_open(pool: Pool, starts: int, ends: int) -> bool:
    """Whether GPUs of the pool are free throughout `[starts, ends)`."""
    return _covering("any", pool, starts, ends, frozenset()) is not None


def tightest_block(
    pool: Pool, starts: int, ends: int, *, without: frozenset[int] = frozenset()
) -> int | None:
    """A block that is free throughout `[starts, ends)`: one whose opening has the fewest GPUs.

    So a host on which something is booked around that time serves before one that is wholly free.
    """
    return _covering("narrowest", pool, starts, ends, without)


def most_open(pool: Pool, starts: int, ends: int) -> int:
    """How many GPUs of one host, or node, are free throughout `[starts, ends)`, at most."""
    return _covering("widest", pool, starts, ends, frozenset()) or 0


def next_start(pool: Pool, after: int, length: int) -> int | None:
    """When the first opening of at least this length begins, later than `after`."""
    fine = f"SELECT starts FROM {_OPENING} AND fine = p.number AND starts > {after:d}"
    middle = f"SELECT starts FROM {_OPENING} AND middle = p.number AND starts > {after:d}"
    coarse = f"SELECT starts FROM {_OPENING} AND coarse = p.number AND starts > {after:d}"
    tail = f"AND ends - starts >= {length:d} ORDER BY starts LIMIT 1"
    asked = [*probes(length), Probe(0, UNENDING)]
    by_class = (f"{fine} {tail}", f"{middle} {tail}", f"{coarse} {tail}", "NULL")
    return _ask("min", by_class, pool, asked)


def latest_end(pool: Pool, starts: int) -> int | None:
    """How long GPUs of the pool that are free at `starts` stay free together, at most."""
    held = f"AND starts <= {starts:d} AND starts > {starts:d} - p.longest AND ends > {starts:d}"
    fine, middle, coarse = (
        f"SELECT max(ends) FROM {_OPENING} AND {column} = p.number {held}"
        for column in ("fine", "middle", "coarse")
    )
    unbegun = f"SELECT ends FROM {_OPENING} AND {_UNBEGUN} AND ends > {starts:d} ORDER BY ends DESC LIMIT 1"
    asked = [*probes(0), Probe(0, UNENDING), SINCE_ALWAYS]
    return _ask("max", (fine, middle, coarse, unbegun), pool, asked)


# Numbers only, so that the text is the statement: an index on `starts = 0` serves only who says so.
_OPENING = f"{TABLE} WHERE model_id = w.model_id AND scope = w.scope AND gpus = w.gpus"
_UNBEGUN = f"starts = {ALWAYS}"


def _covering(how: str, pool: Pool, starts: int, ends: int, without: frozenset[int]) -> int | None:
    others = f"AND block_id NOT IN ({_listed(sorted(without))})" if without else ""
    within = f"AND starts <= {starts:d} AND starts > {ends:d} - p.longest AND ends >= {ends:d} {others}"
    fine, middle, coarse = (
        f"SELECT block_id FROM {_OPENING} AND {column} = p.number {within} ORDER BY starts DESC LIMIT 1"
        for column in ("fine", "middle", "coarse")
    )
    since_always = (
        f"SELECT block_id FROM {_OPENING} AND {_UNBEGUN} AND ends >= {ends:d} {others}"
        " ORDER BY ends DESC LIMIT 1"
    )
    asked = [SINCE_ALWAYS, Probe(0, UNENDING), *probes(ends - starts)]
    return _ask(how, (fine, middle, coarse, since_always), pool, asked)


_WANTED = {
    "any": "answer FROM answers WHERE answer IS NOT NULL LIMIT 1",
    "narrowest": "answer FROM answers WHERE answer IS NOT NULL ORDER BY gpus LIMIT 1",
    "widest": "max(gpus) FROM answers WHERE answer IS NOT NULL",
    "min": "min(answer) FROM answers",
    "max": "max(answer) FROM answers",
}


def _ask(how: str, by_class: tuple[str, str, str, str], pool: Pool, asked: Iterable[Probe]) -> int | None:
    """One probe per width, scope and class. `how` says which of the answers is wanted."""
    rows = [f"({pool.model_id:d}, {scope:d}, {gpus:d})" for gpus in pool.widths for scope in pool.scopes]
    if not rows:
        return None
    fine, middle, coarse, unbegun = by_class
    classes = ", ".join(f"({probe.shift}, {probe.number}, {probe.longest})" for probe in asked)
    statement = (
        f"WITH w(model_id, scope, gpus) AS (VALUES {', '.join(rows)}),"
        f" p(shift, number, longest) AS (VALUES {classes}),"
        f" answers(gpus, answer) AS (SELECT w.gpus, CASE p.shift WHEN 0 THEN ({fine}) WHEN 4 THEN ({middle})"
        f" WHEN 8 THEN ({coarse}) ELSE ({unbegun}) END FROM w CROSS JOIN p)"
        f" SELECT {_WANTED[how]}"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
    return None if row is None else row[0]


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(f"{number:d}" for number in numbers)
