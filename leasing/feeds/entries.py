"""What a calendar feed holds: bounded, and the same for as long as nothing has changed.

A lease keeps its id for good, and its version rises with every change: each is in the log, except that a host
confirmed a later end, or did not. What bears nobody's name has no id of its own: what it says is its id.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from uuid import UUID

from django.db.models import Count, Max, Q, QuerySet

from hosts.models import Gpu, GpuModel
from leasing import policy
from leasing.availability.levels import CLOSED, TAKEN, UNAVAILABLE, What, changes, levels
from leasing.models import AuditEntry, CalendarFeed, Extension, Lease
from leasing.states.lease import LeaseState

# How far a feed looks back and, for a pool, ahead.
PAST = timedelta(days=30)
POOL_PAST, POOL_AHEAD = timedelta(days=1), timedelta(days=31)
MOST_LEASES = 1000
# A pool in which more changes is told by the hour, each as it is at its worst moment.
MOST_CHANGES = 500
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class LeaseEntry:
    """A lease as long as it lasts, or lasted."""

    lease: Lease
    starts_at: datetime
    ends_at: datetime
    version: int
    changed_at: datetime


@dataclass(frozen=True)
class PoolEntry:
    """So many of the GPUs of a model are taken, or closed for maintenance, in `[starts_at, ends_at)`."""

    model: GpuModel
    closed: bool
    starts_at: datetime
    ends_at: datetime
    gpus: int
    of: int


@dataclass(frozen=True)
class FeedEntries:
    leases: list[LeaseEntry]
    pool: list[PoolEntry]


def read_entries(feed: CalendarFeed, *, now: datetime) -> FeedEntries:
    """What the person of the feed may see at this moment."""
    leases = policy.visible_leases(feed.person).filter(ends_at__gt=now - PAST)
    if feed.model is None:
        return FeedEntries(_of_leases(leases.filter(owner=feed.person)), [])
    return FeedEntries(
        _of_leases(leases.filter(flavor__model=feed.model)), list(_of_pool(feed.model, _midnight(now)))
    )


def _of_leases(leases: QuerySet[Lease]) -> list[LeaseEntry]:
    """Of those that are over, only what ran: what was cancelled or lapsed has gone."""
    ran = ~Q(state=LeaseState.ENDED) | ~Q(active_at=None)
    shown = list(leases.filter(ran).order_by("ends_at", "id")[:MOST_LEASES])
    versions = _versions(shown)
    entries = [LeaseEntry(lease, lease.starts_at, _end(lease), *versions[lease.pk]) for lease in shown]
    return [entry for entry in entries if entry.ends_at - entry.starts_at >= timedelta(seconds=1)]


def _end(lease: Lease) -> datetime:
    return min(lease.ends_at, lease.stopped_at or lease.ends_at)


def _versions(leases: list[Lease]) -> dict[UUID, tuple[int, datetime]]:
    """For each lease how often it has changed, and when last."""
    subjects = {f"lease:{lease.pk}": lease.pk for lease in leases}
    told = AuditEntry.objects.filter(subject__in=subjects, action__startswith="lease.").order_by()
    answered = Extension.objects.filter(lease__in=leases).exclude(state=Extension.State.PENDING).order_by()
    counts = {lease.pk: [(0, lease.requested_at)] for lease in leases}
    for subject, count, last in told.values_list("subject").annotate(Count("id"), Max("recorded_at")):
        counts[subjects[subject]].append((count, last))
    for lease_id, count, last in answered.values_list("lease").annotate(Count("id"), Max("state_since")):
        counts[lease_id].append((count, last))
    return {
        pk: (sum(count for count, _last in found), max(last for _count, last in found))
        for pk, found in counts.items()
    }


def _of_pool(model: GpuModel, today: datetime) -> Iterator[PoolEntry]:
    since, until = today - POOL_PAST, today + POOL_AHEAD
    taken, gone, closed = (_runs(what, model, since, until) for what in (TAKEN, UNAVAILABLE, CLOSED))
    total = Gpu.objects.filter(model=model).count()
    for is_closed, runs in ((False, _beyond(taken, gone)), (True, closed)):
        for (starts_at, gpus), (ends_at, _next) in pairwise([*_merged(runs), (until, 0)]):
            if gpus:
                yield PoolEntry(model, is_closed, starts_at, ends_at, gpus, total)


Runs = list[tuple[datetime, int]]


def _runs(what: What, model: GpuModel, since: datetime, until: datetime) -> Runs:
    """From when on how many."""
    found = changes(what, model, since, until, limit=MOST_CHANGES + 1)
    if len(found) <= MOST_CHANGES:
        return found
    edges = [since + n * HOUR for n in range((until - since) // HOUR + 1)]
    steps = levels([what], model, edges).of[0]
    return [(at, level.most) for at, level in zip(edges, steps, strict=False)]


def _beyond(taken: Runs, gone: Runs) -> Runs:
    """How many are taken, where not all of them are so because they are closed or out of service."""
    moments = sorted({at for at, _count in [*taken, *gone]})
    both = ((at, _at(taken, at), _at(gone, at)) for at in moments)
    return [(at, count if count > other else 0) for at, count, other in both]


def _at(runs: Runs, at: datetime) -> int:
    return runs[bisect_right(runs, at, key=lambda run: run[0]) - 1][1]


def _merged(runs: Iterable[tuple[datetime, int]]) -> Iterator[tuple[datetime, int]]:
    return (next(same) for _count, same in groupby(runs, key=lambda run: run[1]))


def _midnight(now: datetime) -> datetime:
    """So that the same answer stays the same all day."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
