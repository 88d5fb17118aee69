"""The slow truth about what is free: minute by minute, GPU by GPU, from rows that no search reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from hosts.models import Gpu
from leasing.models import Closure, Flavor, Hold
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
    `in_use`.
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
    ) -> None:
        self.flavor, self.now, self.horizon = flavor, now, horizon
        self.apart, self.in_use = apart, in_use
        gpus = Gpu.objects.filter(model=flavor.model, state__in=BOOKABLE)
        self.gpus = [gpu for gpu in gpus if hosts is None or gpu.host_id in hosts]
        self.busy: dict[UUID, list[Busy]] = defaultdict(list)
        for hold in Hold.objects.all():
            self.busy[hold.gpu_id].append(Busy(hold.starts_at, hold.ends_at))
        for closure in Closure.objects.all():
            for gpu in self.gpus:
                if closure.host_id == gpu.host_id and closure.gpu_id in (None, gpu.pk):
                    self.busy[gpu.pk].append(Busy(closure.starts_at, closure.ends_at))

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
            lefts, rights = {gap[0] for gap in gaps}, {gap[1] for gap in gaps}
            counts = {
                (left, right): sum(gap[0] <= left and gap[1] >= right for gap in gaps)
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

    def _gap(self, gpu: Gpu, starts_at: datetime, ends_at: datetime) -> tuple[datetime, datetime]:
        before = [busy.ends_at for busy in self.busy[gpu.pk] if busy.ends_at and busy.ends_at <= starts_at]
        after = [busy.starts_at for busy in self.busy[gpu.pk] if busy.starts_at >= ends_at]
        always, forever = self.now - timedelta(days=999), self.horizon + timedelta(days=999)
        return max(before, default=always), min(after, default=forever)
