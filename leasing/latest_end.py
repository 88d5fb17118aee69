"""Until when a lease can be extended, by what is booked, kept and closed now."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from hosts.models import Gpu, GpuModel
from leasing import moving
from leasing.extras import extras_of
from leasing.models import Closure, Flavor, Hold, Lease, WaitlistEntry
from leasing.openings.upkeep import LAST
from leasing.statements import Columns, ask, ask_joined, columns_of, fields_of
from leasing.states.lease import AHEAD
from leasing.timing import LONGEST_LEASE

_HOLDS, _GPUS = Hold._meta.db_table, Gpu._meta.db_table
_KEPT_GPUS = WaitlistEntry.kept_gpus.through._meta.db_table


@dataclass(frozen=True)
class ExtensionLimit:
    """The latest end that a lease could have, and which lease would have to move for an end after `stays`.

    `taken` says that somebody else has the GPUs then, `closed` that they are closed for maintenance, `home`
    that its home volume is booked with another workstation, `devices` that one of its devices is; if none of
    them, no lease is longer.
    """

    until: datetime
    taken: bool
    stays: datetime
    moves: Lease | None = None
    closed: bool = False
    home: bool = False
    devices: bool = False


def extension_limit(lease: Lease, *, now: datetime) -> ExtensionLimit:
    """Until when at most the lease can be extended.

    That the next lease can move is of no help against a closure, nor against somebody who waits.
    """
    limit = _limit_of_gpus(lease, now=now)
    taken = extras_of(lease).taken(lease.flavor, now=now)
    ahead = [one for one in taken if lease.ends_at <= one.starts_at < limit.until]
    if not ahead:
        return limit
    first = min(ahead, key=lambda one: one.starts_at)
    until, is_device = first.starts_at, first.because.code == "device-is-booked"
    moves = limit.moves if limit.stays < until else None
    return ExtensionLimit(until, False, min(limit.stays, until), moves, home=not is_device, devices=is_device)


def _limit_of_gpus(lease: Lease, *, now: datetime) -> ExtensionLimit:
    around = _Around(lease)
    longest = lease.starts_at + LONGEST_LEASE
    turnaround = timedelta(seconds=lease.flavor.model.turnaround_seconds)
    first = around.first()
    stays = min(longest, first - turnaround) if first else longest
    if first is None or stays == longest:
        return ExtensionLimit(longest, False, longest)
    next_id = next((lease_id for starts_at, lease_id in around.following if starts_at == first), None)
    next_lease = None if next_id is None else _fetch(next_id)
    if next_lease is not None and next_lease.state in AHEAD and around.could_move(next_lease, now=now):
        then = around.first(without=next_id)
        until = min(longest, then - turnaround) if then else longest
        if until > stays:
            closed = until < longest and then in around.closing
            return ExtensionLimit(until, until < longest and not closed, stays, next_lease, closed)
    closed = first in around.closing
    return ExtensionLimit(max(stays, lease.ends_at), not closed, stays, closed=closed)


class _Around:
    """What comes after the holds of a lease on its GPUs.

    `following` has the next two holds of each GPU with their leases; `closing` and `kept` say when closures,
    and time kept for somebody who waits, begin: not before the end of the holds that they outlast.
    """

    def __init__(self, lease: Lease) -> None:
        moments: dict[str, list[datetime]] = defaultdict(list)
        held: list[UUID] = []
        self.following: list[tuple[datetime, UUID]] = []
        for kind, moment, other in ask(_AROUND, {"lease": lease.pk, "last": LAST}, _AROUND_COLUMNS):
            moments[kind].append(moment)
            if kind == "held":
                held.append(other)
            elif kind == "follows":
                self.following.append((moment, other))
        ends_at = max(moments["held"], default=None)
        self.held = frozenset(held)
        self.closing = [max(begin, ends_at) for begin in moments["closes"] if ends_at]
        self.kept = [max(begin, ends_at) for begin in moments["kept"] if ends_at]

    def first(self, *, without: UUID | None = None) -> datetime | None:
        """When the first of all this begins, but for the holds of one lease."""
        follow = [starts_at for starts_at, lease_id in self.following if lease_id != without]
        return min([*self.closing, *self.kept, *follow], default=None)

    def could_move(self, other: Lease, *, now: datetime) -> bool:
        return moving.could_make_way(other, self.held, now=now)


def _fetch(lease_id: UUID) -> Lease:
    rows: list[tuple[Lease, Flavor, GpuModel]] = ask_joined(_WITH_MODEL, _LEASE, {"lease": lease_id})
    (lease, flavor, model) = rows[0]
    lease.flavor, flavor.model = flavor, model
    return lease


_WITH_MODEL = (Lease, Flavor, GpuModel)
# A lease has at most one hold of a GPU: of the next two at least one is not of the next lease.
_AROUND = f"""
WITH held(gpu_id, host_id, ends_at) AS (
    SELECT k.gpu_id, g.host_id, k.ends_at FROM {_HOLDS} k JOIN {_GPUS} g ON g.id = k.gpu_id
    WHERE k.lease_id = %(lease)s
)
SELECT 'held', ends_at, gpu_id FROM held
UNION ALL
SELECT 'follows', n.starts_at, n.lease_id FROM held JOIN {_HOLDS} n ON n.gpu_id = held.gpu_id
    AND n.starts_at IN (
        SELECT f.starts_at FROM {_HOLDS} f WHERE f.gpu_id = held.gpu_id AND f.starts_at >= held.ends_at
        ORDER BY f.starts_at LIMIT 2)
UNION ALL
SELECT 'closes', c.starts_at, NULL FROM {Closure._meta.db_table} c
    WHERE c.host_id IN (SELECT host_id FROM held)
    AND (c.gpu_id IS NULL OR c.gpu_id IN (SELECT gpu_id FROM held))
    AND COALESCE(c.ends_at, %(last)s) > (SELECT max(ends_at) FROM held)
UNION ALL
SELECT 'kept', w.kept_from, NULL FROM {WaitlistEntry._meta.db_table} w
    WHERE w.id IN (
        SELECT waitlistentry_id FROM {_KEPT_GPUS} WHERE gpu_id IN (SELECT gpu_id FROM held))
    AND w.kept_until > (SELECT max(ends_at) FROM held)"""  # noqa: S608 - no values in it
_AROUND_COLUMNS = Columns(None, *fields_of(Hold, "starts_at", "lease"))
_LEASE = f"""
SELECT {columns_of(Lease, "l")}, {columns_of(Flavor, "f")}, {columns_of(GpuModel, "m")}
FROM {Lease._meta.db_table} l JOIN {Flavor._meta.db_table} f ON f.id = l.flavor_id
JOIN {GpuModel._meta.db_table} m ON m.id = f.model_id WHERE l.id = %(lease)s"""  # noqa: S608 - no values in it
