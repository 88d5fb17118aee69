"""Why GPUs cannot serve in a window: found in the database, of a few blocks or of those that one cause marks.

Some causes are rare, and where they are is known at once; what most GPUs have is read block by block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from hosts.models import Gpu
from leasing.models import Closure, Extension, Flavor, Hold, Lease, Person, WaitlistEntry
from leasing.openings.search import BLOCKS, Pool
from leasing.statements import ask
from leasing.states.gpu import BOOKABLE, GpuState
from leasing.states.lease import LeaseState


class Cause(StrEnum):
    """Why a GPU cannot serve. `TURNAROUND`: it is needed only to clean it, or to build the machine."""

    OUT_OF_SERVICE = "gpus-out-of-service"
    OWN = "own-workstations"
    OTHERS = "booked-by-others"
    KEPT = "kept-for-the-line"
    TURNAROUND = "no-time-between"


# The causes of each GPU of a host, or of a NUMA node where one must serve alone.
Blocked = Sequence[frozenset[Cause]]
Held = tuple[datetime, datetime]


@dataclass(frozen=True)
class Wish:
    """A window that a person wants, what a lease would hold for it, and where it could be."""

    flavor: Flavor
    starts_at: datetime
    ends_at: datetime
    held: Held
    person: Person
    pool: Pool
    now: datetime

    @property
    def around(self) -> tuple[timedelta, timedelta]:
        """How far a hold reaches beyond its lease: the model's lead and turnaround."""
        model = self.flavor.model
        return timedelta(seconds=model.lead_seconds), timedelta(seconds=model.turnaround_seconds)

    @property
    def values(self) -> dict[str, Any]:
        return {
            "model": self.pool.model_id,
            "count": self.pool.count,
            "person": self.person.pk,
            "starts_at": self.starts_at,
            "ends_at": self.ends_at,
            "begin": self.held[0],
            "end": self.held[1],
            "now": self.now,
        }


def marked(wish: Wish) -> dict[Cause, list[int]]:
    """The blocks that have GPUs with one cause alone, if it is a rare one, and perhaps some more.

    Of `TURNAROUND` only those where it may be longer than the model's: a later end waits for its host, or a
    lease that is over still holds its GPU.
    """
    found: dict[Cause, list[int]] = defaultdict(list)
    for cause, block_id in ask(_marked(wish.pool.bounds), wish.values):
        found[Cause(cause)].append(block_id)
    return found


def read_groups(wish: Wish, block_ids: Collection[int]) -> dict[int, list[Blocked]]:
    """Of each of these blocks the causes of its GPUs, group by group."""
    blocks = {f"block{number}": block_id for number, block_id in enumerate(block_ids)}
    one_node, causes = wish.pool.one_node, defaultdict[tuple[int, int, Any], set[Cause]](set)
    for block_id, node, gpu_id, cause in ask(_causes(len(blocks)), {**wish.values, **blocks}):
        causes[block_id, node if one_node else 0, gpu_id].update([Cause(cause)] if cause else [])
    groups: dict[tuple[int, int], list[frozenset[Cause]]] = defaultdict(list)
    for (block_id, node, _gpu_id), found in causes.items():
        groups[block_id, node].append(frozenset(found))
    of_block: dict[int, list[Blocked]] = {block_id: [] for block_id in block_ids}
    for (block_id, _node), group in groups.items():
        of_block[block_id].append(group)
    return of_block


_GPUS, _HOLDS, _LEASES, _CLOSURES = (model._meta.db_table for model in (Gpu, Hold, Lease, Closure))
_ENTRIES, _KEPT_GPUS = WaitlistEntry._meta.db_table, WaitlistEntry.kept_gpus.through._meta.db_table
# Named one by one, so that few of a large fleet are found by an index.
_BROKEN = f"state IN ({', '.join(repr(str(state)) for state in sorted(set(GpuState) - BOOKABLE))})"
_MET = "k.starts_at < %(end)s AND k.ends_at > %(begin)s"
_CLOSED = "c.starts_at < %(end)s AND (c.ends_at IS NULL OR c.ends_at > %(begin)s)"
# Why a lease that holds a GPU is in the way.
_HELD_BY = f"""CASE
        WHEN l.state = '{LeaseState.OFFERED}' THEN '{Cause.KEPT}'
        WHEN l.starts_at >= %(ends_at)s OR l.ends_at <= %(starts_at)s THEN '{Cause.TURNAROUND}'
        WHEN l.owner_id = %(person)s THEN '{Cause.OWN}' ELSE '{Cause.OTHERS}' END"""


@lru_cache(maxsize=16)
def _marked(bounds: str) -> str:
    """Where nothing else holds such a GPU: with another cause beside it, it cannot tell."""
    held = f"JOIN {_HOLDS} k ON k.lease_id = l.id JOIN {_GPUS} g ON g.id = k.gpu_id"
    return f"""WITH marked(cause, host_id, gpu_id) AS (
        SELECT '{Cause.OWN}', g.host_id, g.id FROM {_LEASES} l {held}
        WHERE l.owner_id = %(person)s AND l.starts_at < %(ends_at)s AND l.ends_at > %(starts_at)s
        UNION
        SELECT '{Cause.KEPT}', g.host_id, g.id FROM {_LEASES} l {held}
        WHERE l.state = '{LeaseState.OFFERED}' AND {_MET}
        UNION
        SELECT '{Cause.KEPT}', b.host_id, t.gpu_id
        FROM {BLOCKS} b JOIN {_KEPT_GPUS} t ON t.waitlistentry_id = b.kept_for_id
        UNION
        SELECT '{Cause.TURNAROUND}', g.host_id, g.id
        FROM {Extension._meta.db_table} e JOIN {_LEASES} l ON l.id = e.lease_id {held}
        WHERE e.state = '{Extension.State.PENDING}' AND {_MET}
        UNION
        SELECT '{Cause.TURNAROUND}', g.host_id, g.id FROM {_LEASES} l {held}
        WHERE l.state IN ('{LeaseState.ACTIVE}', '{LeaseState.RELEASING}')
            AND l.ends_at <= %(now)s AND {_MET}
        UNION
        SELECT '{Cause.TURNAROUND}', g.host_id, g.id
        FROM {_GPUS} g JOIN {_HOLDS} k ON k.gpu_id = g.id AND k.tenure = g.tenure AND {_MET}
        WHERE g.model_id = %(model)s AND g.state IN ('{GpuState.DIRTY}', '{GpuState.SCRUBBING}')
        UNION
        SELECT '{Cause.OUT_OF_SERVICE}', host_id, id FROM {_GPUS} WHERE model_id = %(model)s AND {_BROKEN}
        UNION
        SELECT '{Cause.OUT_OF_SERVICE}', c.host_id, c.gpu_id FROM {_CLOSURES} c WHERE {_CLOSED}
    )
    SELECT DISTINCT m.cause, b.block_id FROM marked m JOIN (
        SELECT id AS block_id, host_id FROM {BLOCKS} WHERE model_id = %(model)s AND gpus >= %(count)s
    ) b ON b.host_id = m.host_id {bounds}
    WHERE NOT EXISTS (
        SELECT 1 FROM {_HOLDS} k
        WHERE k.gpu_id = m.gpu_id AND {_MET}
            AND (SELECT {_HELD_BY} FROM {_LEASES} l WHERE l.id = k.lease_id) <> m.cause
    )
    ORDER BY b.block_id"""  # noqa: S608 - tables of our own


@lru_cache(maxsize=16)
def _causes(count: int) -> str:
    """Each cause of each GPU once, and each GPU once without one.

    A lease is looked up for each hold: the planner, who does not see the times, would expect many holds.
    """
    return f"""WITH gpu AS MATERIALIZED (
        SELECT b.id AS block_id, b.kept_for_id, g.id, g.host_id, g.numa_node, g.state
        FROM {BLOCKS} b JOIN {_GPUS} g ON g.host_id = b.host_id AND g.model_id = b.model_id
        WHERE b.id IN ({", ".join(f"%(block{number})s" for number in range(count))})
    )
    SELECT block_id, numa_node, id, '' FROM gpu
    UNION
    SELECT gpu.block_id, gpu.numa_node, gpu.id,
        (SELECT {_HELD_BY} FROM {_LEASES} l WHERE l.id = k.lease_id)
    FROM gpu JOIN {_HOLDS} k ON k.gpu_id = gpu.id AND {_MET}
    UNION
    SELECT gpu.block_id, gpu.numa_node, gpu.id, '{Cause.KEPT}'
    FROM gpu JOIN {_KEPT_GPUS} t ON t.waitlistentry_id = gpu.kept_for_id AND t.gpu_id = gpu.id
        JOIN {_ENTRIES} e ON e.id = gpu.kept_for_id
    WHERE e.kept_from < %(end)s AND (e.kept_until IS NULL OR e.kept_until > %(begin)s)
    UNION
    SELECT block_id, numa_node, id, '{Cause.OUT_OF_SERVICE}' FROM gpu WHERE {_BROKEN}
    UNION
    SELECT gpu.block_id, gpu.numa_node, gpu.id, '{Cause.OUT_OF_SERVICE}'
    FROM gpu JOIN {_CLOSURES} c ON c.host_id = gpu.host_id AND (c.gpu_id IS NULL OR c.gpu_id = gpu.id)
    WHERE {_CLOSED}"""  # noqa: S608 - tables of our own
