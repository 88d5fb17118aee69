"""The slow truth about what is free: minute by minute, GPU by GPU, from rows that no search reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from uuid import UUID

from hosts.models import Gpu
from leasing.models import Closure, Flavor, Hold, WaitlistEntry
from leasing.openings.spans import ALWAYS, FOREVER, Span, micros
from leasing.placement import FreeGpu
from leasing.states.gpu import BOOKABLE

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Busy:
    starts_at: datetime
    ends_at: datetime | None

    def meets(self, starts_at: datetime, ends_at: datetime) -> bool:
        return self.starts_at < ends_at and (self.ends_at is None or self.ends_at > starts_at)


class Oracle:
    """What the fleet is like at one moment; all times in it are whole minutes.

    Only `hosts` may serve, if they are given; no lease may overlap any of `apart`, and no hold any of
    `in_use`. The leases `without` are as if they were not there.
    """

    def __init__(
        self,
        flavor: Flavor,
        *,
        now: datetime,
        horizon: datetime,
        hosts: Collection[UUID] | None = None,
        apart: Collection[Busy] = (),
        in_use: Collection[Busy] = (),
        without: Collection[UUID] = (),
    ) -> None:
        self.flavor, self.now, self.horizon = flavor, now, horizon
        self.apart, self.in_use = apart, in_use
        gpus = Gpu.objects.filter(model=flavor.model, state__in=BOOKABLE)
        self.gpus = [gpu for gpu in gpus if hosts is None or gpu.host_id in hosts]
        self.busy: dict[UUID, list[Busy]] = defaultdict(list)
        for hold in Hold.objects.exclude(lease__in=without):
            self.busy[hold.gpu_id].append(Busy(hold.starts_at, hold.ends_at))
        for closure in Closure.objects.all():
            for gpu in self.gpus:
                if closure.host_id == gpu.host_id and closure.gpu_id in (None, gpu.pk):
                    self.busy[gpu.pk].append(Busy(closure.starts_at, closure.ends_at))

    def keep(self, entries: Iterable[WaitlistEntry]) -> None:
        """What is kept for these, who wait, is not to be had."""
        for entry in entries:
            if entry.kept_from is not None:
                for gpu in entry.kept_gpus.all():
                    self.busy[gpu.pk].append(Busy(entry.kept_from, entry.kept_until))

    def window(self, starts_at: datetime, ends_at: datetime) -> tuple[datetime, datetime]:
        model = self.flavor.model
        lead = timedelta(seconds=model.lead_seconds)
        turnaround = timedelta(seconds=model.turnaround_seconds)
        return max(self.now, starts_at - lead), ends_at + turnaround

    def groups(self) -> list[list[Gpu]]:
        """GPUs that may serve one lease together."""
        groups: dict[tuple[UUID, int], list[Gpu]] = defaultdict(list)
        for gpu in self.gpus:
            node = gpu.numa_node if self.flavor.numa == Flavor.Numa.REQUIRED else 0
            groups[gpu.host_id, node].append(gpu)
        return list(groups.values())

    def fits(self, starts_at: datetime, ends_at: datetime) -> bool:
        held = self.window(starts_at, ends_at)
        if any(busy.meets(starts_at, ends_at) for busy in self.apart):
            return False
        if any(busy.meets(*held) for busy in self.in_use):
            return False
        return any(len(self.free(group, *held)) >= self.flavor.gpu_count for group in self.groups())

    def free(self, group: list[Gpu], starts_at: datetime, ends_at: datetime) -> list[Gpu]:
        return [gpu for gpu in group if not any(busy.meets(starts_at, ends_at) for busy in self.busy[gpu.pk])]

    def first_start(self, duration: timedelta, earliest: datetime) -> datetime | None:
        start = earliest
        while start < self.horizon:
            if self.fits(start, start + duration):
                return start
            start += MINUTE
        return None

    def longest_end(self, starts_at: datetime, until: datetime) -> datetime | None:
        ends_at = until
        while ends_at > starts_at:
            if self.fits(starts_at, ends_at):
                return ends_at
            ends_at -= MINUTE
        return None

    def room_left(self, starts_at: datetime, ends_at: datetime) -> dict[UUID, int]:
        """Per host that can serve, the fewest GPUs of any opening around the hold: what the placement minds.

        An opening begins where one of its GPUs comes free and ends where one is taken.
        """
        held = self.window(starts_at, ends_at)
        found: dict[UUID, int] = {}
        for group in self.groups():
            free = self.free(group, *held)
            if len(free) < self.flavor.gpu_count:
                continue
            gaps = [self._gap(gpu, *held) for gpu in free]
            lefts, rights = {gap.starts for gap in gaps}, {gap.ends for gap in gaps}
            counts = {
                (left, right): sum(gap.starts <= left and gap.ends >= right for gap in gaps)
                for left in lefts
                for right in rights
            }
            maximal = [
                count
                for (left, right), count in counts.items()
                if count >= self.flavor.gpu_count
                and not any(
                    (other != (left, right) and other[0] <= left and other[1] >= right and more >= count)
                    for other, more in counts.items()
                )
            ]
            host_id = group[0].host_id
            found[host_id] = min([*maximal, found.get(host_id, 99)])
        return found

    def best_on(self, host_id: UUID, starts_at: datetime, ends_at: datetime) -> list[set[UUID]]:
        """Every choice of the host's GPUs that is as good as any, for a lease that does not begin at once."""
        held = self.window(starts_at, ends_at)
        free = [
            FreeGpu(gpu.pk, gpu.numa_node, False, self._gap(gpu, *held))
            for gpu in self.free([gpu for gpu in self.gpus if gpu.host_id == host_id], *held)
        ]
        one_node = self.flavor.numa == Flavor.Numa.REQUIRED
        choices = best_choices(free, count=self.flavor.gpu_count, one_node=one_node, want_ready=False)
        return [{gpu.gpu_id for gpu in gpus} for gpus in choices]

    def _gap(self, gpu: Gpu, starts_at: datetime, ends_at: datetime) -> Span:
        before = [busy.ends_at for busy in self.busy[gpu.pk] if busy.ends_at and busy.ends_at <= starts_at]
        after = [busy.starts_at for busy in self.busy[gpu.pk] if busy.starts_at >= ends_at]
        return Span(max(map(micros, before), default=ALWAYS), min(map(micros, after), default=FOREVER))


def _lengths(gpus: tuple[FreeGpu, ...]) -> list[int]:
    return sorted(gpu.gap.ends - gpu.gap.starts for gpu in gpus)


def best_choices(
    free: list[FreeGpu], *, count: int, one_node: bool, want_ready: bool
) -> list[frozenset[FreeGpu]]:
    """Every choice than which the rule knows no better one."""

    def rank(gpus: tuple[FreeGpu, ...]) -> tuple[int, int, int]:
        """What comes first: clean ones if they are wanted, then one node, then the one with the fewest."""
        nodes = {gpu.numa_node for gpu in gpus}
        unready = sum(not gpu.ready for gpu in gpus) if want_ready else 0
        return unready, len(nodes) > 1, sum(gpu.numa_node in nodes for gpu in free) if len(nodes) == 1 else 0

    def place(gpus: tuple[FreeGpu, ...]) -> int | None:
        """The node, if it is one. Which of two equally good nodes it is, the rule leaves open."""
        nodes = {gpu.numa_node for gpu in gpus}
        return min(nodes) if len(nodes) == 1 else None

    possible = [
        gpus
        for gpus in combinations(free, count)
        if not one_node or len({gpu.numa_node for gpu in gpus}) == 1
    ]
    first = min(map(rank, possible), default=None)
    good = [gpus for gpus in possible if rank(gpus) == first]
    shortest = {
        node: min(_lengths(gpus) for gpus in good if place(gpus) == node) for node in map(place, good)
    }
    return [frozenset(gpus) for gpus in good if _lengths(gpus) == shortest[place(gpus)]]
