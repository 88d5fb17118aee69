"""Questions to the table of openings: whether a span is free, from when on, and until when at most.

An opening that covers `[a, b)` began by `a` and lasts until `b`. Looking through all that began by `a` would
take as long as the fleet is large; but one that covers has at least the length `b - a`, and one of a given
length that still lasts at `b` cannot have begun much earlier. So each class of lengths is probed for one row.
How many probes there are does not depend on the fleet, nor on what its openings look like.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from django.db import connection
from django.db.models import Max

from leasing.models import Block, Opening
from leasing.openings.spans import ALWAYS, UNENDING, Probe, probes

TABLE = Opening._meta.db_table


class Scope(IntEnum):
    """Whose openings: of a host with several NUMA nodes, of one of these, or of a host that has only one."""

    SEVERAL_NODES = 0
    ONE_OF_SEVERAL = 1
    ONLY_NODE = 2


@dataclass(frozen=True)
class Pool:
    """Where to look: the GPUs of one model, `count` at a time on one host, or on one node of it."""

    model_id: int
    count: int
    one_node: bool = False

    @property
    def scopes(self) -> tuple[Scope, Scope]:
        return (Scope.ONE_OF_SEVERAL if self.one_node else Scope.SEVERAL_NODES, Scope.ONLY_NODE)

    def widths(self) -> range:
        """The numbers of GPUs that an opening may have and still serve."""
        largest = Block.objects.filter(model_id=self.model_id).aggregate(largest=Max("gpus"))["largest"] or 0
        return range(self.count, largest + 1)


def is_open(pool: Pool, starts: int, ends: int) -> bool:
    """Whether GPUs of the pool are free throughout `[starts, ends)`."""
    return _covering(pool, pool.widths(), starts, ends, frozenset()) is not None


def tightest_block(
    pool: Pool, starts: int, ends: int, *, without: frozenset[int] = frozenset()
) -> int | None:
    """A block that is free throughout `[starts, ends)`: one whose opening has the fewest GPUs.

    So a host on which something is booked around that time serves before one that is wholly free.
    """
    for width in pool.widths():
        found = _covering(pool, [width], starts, ends, without)
        if found is not None:
            return found
    return None


def next_start(pool: Pool, after: int, length: int) -> int | None:
    """When the first opening of at least this length begins, later than `after`."""
    fine = f"SELECT starts FROM {_OPENING} AND fine = p.number AND starts > {after:d}"
    middle = f"SELECT starts FROM {_OPENING} AND middle = p.number AND starts > {after:d}"
    coarse = f"SELECT starts FROM {_OPENING} AND coarse = p.number AND starts > {after:d}"
    tail = f"AND ends - starts >= {length:d} ORDER BY starts LIMIT 1"
    asked = [*probes(length), Probe(0, UNENDING)]
    return _ask("min", (f"{fine} {tail}", f"{middle} {tail}", f"{coarse} {tail}"), pool, pool.widths(), asked)


def latest_end(pool: Pool, starts: int) -> int | None:
    """How long GPUs of the pool that are free at `starts` stay free together, at most."""
    held = f"AND starts <= {starts:d} AND starts > {starts:d} - p.longest AND ends > {starts:d}"
    fine, middle, coarse = (
        f"SELECT max(ends) FROM {_OPENING} AND {column} = p.number {held}"
        for column in ("fine", "middle", "coarse")
    )
    widths = pool.widths()
    asked = [*probes(0), Probe(0, UNENDING)]
    bounded = _ask("max", (fine, middle, coarse), pool, widths, asked)
    unbegun = _ask_each(
        "max", f"SELECT ends FROM {_OPENING} AND {_UNBEGUN} ORDER BY ends DESC LIMIT 1", pool, widths
    )
    return max((end for end in (bounded, unbegun) if end is not None and end > starts), default=None)


# Numbers only, so that the text is the statement: an index on `starts = 0` serves only who says so.
_OPENING = f"{TABLE} WHERE model_id = w.model_id AND scope = w.scope AND gpus = w.gpus"
_UNBEGUN = f"starts = {ALWAYS}"


def _covering(
    pool: Pool, widths: Sequence[int], starts: int, ends: int, without: frozenset[int]
) -> int | None:
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
    found = _ask_each("any", since_always, pool, widths)
    if found is None:
        asked = [Probe(0, UNENDING), *probes(ends - starts)]
        found = _ask("any", (fine, middle, coarse), pool, widths, asked)
    return found


def _ask(
    how: str, by_class: tuple[str, str, str], pool: Pool, widths: Sequence[int], asked: Iterable[Probe]
) -> int | None:
    """One probe per width, scope and class. `how` says which of the answers is wanted."""
    fine, middle, coarse = by_class
    classes = ", ".join(f"({probe.shift}, {probe.number}, {probe.longest})" for probe in asked)
    probed = f"CASE p.shift WHEN 0 THEN ({fine}) WHEN 4 THEN ({middle}) ELSE ({coarse}) END"
    return _run(
        how,
        f"WITH w(model_id, scope, gpus) AS (VALUES {_widths(pool, widths)}),"
        f" p(shift, number, longest) AS (VALUES {classes})"
        f" SELECT {probed} AS answer FROM w CROSS JOIN p",
        widths,
    )


def _ask_each(how: str, probe: str, pool: Pool, widths: Sequence[int]) -> int | None:
    """One probe per width and scope."""
    table = f"WITH w(model_id, scope, gpus) AS (VALUES {_widths(pool, widths)})"
    return _run(how, f"{table} SELECT ({probe}) AS answer FROM w", widths)


def _run(how: str, answers: str, widths: Sequence[int]) -> int | None:
    if not widths:
        return None
    with_table, _, select = answers.partition(" SELECT ")
    wanted = (
        "answer FROM answers WHERE answer IS NOT NULL LIMIT 1"
        if how == "any"
        else f"{how}(answer) FROM answers"
    )
    with connection.cursor() as cursor:
        cursor.execute(f"{with_table}, answers(answer) AS (SELECT {select}) SELECT {wanted}")
        row = cursor.fetchone()
    return None if row is None else row[0]


def _widths(pool: Pool, widths: Sequence[int]) -> str:
    return ", ".join(f"({pool.model_id:d}, {scope:d}, {gpus:d})" for gpus in widths for scope in pool.scopes)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(f"{number:d}" for number in numbers)
