"""What the calendar shows of a pool is the slow truth, minute by minute, and nothing of strangers.

Set LEASEHOLD_FLEETS to try that many other fleets.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from django.db import transaction
from hypothesis import given
from hypothesis import strategies as st

from hosts.models import Gpu, Host
from leasing import holds, policy
from leasing.actors import SYSTEM
from leasing.availability.levels import CLOSED, TAKEN, changes
from leasing.availability.pool import (
    HostPage,
    Pool,
    Step,
    read_hosts,
    read_overview,
)
from leasing.availability.sweep import Kind, common, without
from leasing.errors import NothingFree
from leasing.models import Closure, Flavor, Hold, Lease, Person, Tenant
from leasing.openings.spans import Span, micros
from leasing.openings.upkeep import rebuild
from leasing.states.gpu import BOOKABLE
from tests.chosen import chosen, how_many
from tests.domain.ground import NOW, Ground
from tests.domain.oracle import MINUTE

FLEETS = how_many(25)
LENGTH = 60
LONG_AGO = NOW - timedelta(days=1)

STRANGER = 2
# Every minute in which anything is looked at, and some more.
GRID = range(-30, 6 * LENGTH)

minutes = st.integers(0, LENGTH)
lengths = st.integers(1, LENGTH)
spans = st.lists(st.tuples(minutes, minutes).map(lambda two: Span(min(two) + 1, max(two) + 2)), max_size=5)


@dataclass(frozen=True)
class Plan:
    """A fleet, who leases what of it, and where the reader looks; times in minutes after NOW."""

    shape: list[list[int]]
    lead: int
    turnaround: int
    bookings: list[tuple[int, int, int, int]]
    closures: list[tuple[int, int, int | None, bool]]
    broken: dict[int, int]
    stopped: set[int]
    now: int
    since: int
    steps: list[int]
    wanted: list[int]


plans = st.builds(
    Plan,
    shape=st.lists(st.lists(st.sampled_from([0, 0, 1]), min_size=1, max_size=3), min_size=1, max_size=2),
    lead=st.sampled_from([0, 3]),
    turnaround=st.sampled_from([0, 5]),
    bookings=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 1, 2, 3, 4]), minutes, lengths),
        min_size=2,
        max_size=9,
    ),
    closures=st.lists(
        st.tuples(st.integers(0, 8), minutes, st.none() | lengths, st.booleans()), max_size=3
    ),
    broken=st.dictionaries(st.integers(0, 8), minutes, max_size=2),
    stopped=st.sets(st.integers(0, 8), max_size=3),
    now=st.integers(0, 40),
    since=st.integers(-10, 30),
    steps=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    wanted=st.lists(st.sampled_from([0, 0, 1, 2, 3, 4, 5]), min_size=2, max_size=2),
)  # fmt: skip


@dataclass
class Fleet:
    """The rows of a plan. Ada reads: her own lease, one of a team that she approves for, a stranger's."""

    plan: Plan
    ground: Ground = field(default_factory=Ground)

    def __post_init__(self) -> None:
        plan, ground = self.plan, self.ground
        ground.model.lead_seconds, ground.model.turnaround_seconds = 60 * plan.lead, 60 * plan.turnaround
        ground.model.save()
        Gpu.objects.all().delete()
        rebuild(ground.host.pk)
        self.gpus = [gpu for number, nodes in enumerate(plan.shape, 2) for gpu in self.host(number, nodes)]
        self.flavors = [
            Flavor.objects.create(slug=f"{n}-{numa}", name="x", model=ground.model, gpu_count=n, numa=numa)
            for n in (1, 2, 3)
            for numa in Flavor.Numa
        ]
        self.now = self.at(plan.now)
        self.people()
        for number, booking in enumerate(plan.bookings):
            with suppress(NothingFree), transaction.atomic():
                self.book(number, *booking)
        for which, start, length, whole in plan.closures:
            gpu, starts_at = self.gpus[which % len(self.gpus)], self.at(start)
            ends_at = None if length is None else starts_at + length * MINUTE
            only = None if whole else gpu
            Closure.objects.create(
                host=gpu.host, gpu=only, starts_at=starts_at, ends_at=ends_at, created_at=NOW
            )
        for which, since in plan.broken.items():
            gpu = self.gpus[which % len(self.gpus)]
            gpu.state, gpu.state_since = "quarantined", min(self.at(since), self.now)
            gpu.save()
        for host in Host.objects.all():
            rebuild(host.pk)

    def at(self, minute: int) -> datetime:
        return NOW + minute * MINUTE

    def host(self, number: int, nodes: list[int]) -> list[Gpu]:
        key = f"{number:02d}"
        host = Host.objects.create(
            name=f"hv{number}",
            account=f"hv{number}",
            signing_key=key * 32,
            key_id=key * 8,
            sealing_key=key * 32,
        )
        gpus = [
            Gpu.objects.create(
                host=host, model=self.ground.model, address=f"0000:{index:02x}:00.0", numa_node=node,
                state="clean", state_since=LONG_AGO, share_vcpus=1, share_memory_mib=1, share_disk_gib=1,
            )
            for index, node in enumerate(nodes)
        ]  # fmt: skip
        rebuild(host.pk)
        return gpus

    def people(self) -> None:
        approved, other = (Tenant.objects.create(slug=name, name=name) for name in ("approved", "other"))
        stranger = Person.objects.create(username="bob", email="bob@example.org")
        self.leasers = [
            (self.ground.tenant, self.ground.person),
            (approved, stranger),
            (other, stranger),
        ]
        reader = self.ground.person
        policy.grant_role(actor=SYSTEM, person=reader, tenant=self.ground.tenant, role="member", now=NOW)
        policy.grant_role(actor=SYSTEM, person=reader, tenant=approved, role="approver", now=NOW)

    def book(self, number: int, who: int, which: int, start: int, length: int) -> None:
        tenant, owner = self.leasers[who]
        lease = self.ground.lease(
            tenant=tenant, owner=owner, flavor=self.flavors[which], starts_at=self.at(start),
            ends_at=self.at(start + length),
        )  # fmt: skip
        holds.place(lease, now=LONG_AGO)
        if number in self.plan.stopped and lease.starts_at < self.now < lease.ends_at:
            holds.shrink(lease, now=self.now)
            Lease.objects.filter(pk=lease.pk).update(state="ended", outcome="completed", stopped_at=self.now)

    @property
    def edges(self) -> list[datetime]:
        edges = [self.at(self.plan.since)]
        for length in self.plan.steps:
            edges.append(edges[-1] + length * MINUTE)
        return edges


@dataclass
class Truth:
    """What each GPU does in each minute, from rows that are read once."""

    fleet: Fleet

    def __post_init__(self) -> None:
        self.closures = list(Closure.objects.all())
        self.holds: dict[object, list[Hold]] = {gpu.pk: [] for gpu in self.fleet.gpus}
        for hold in Hold.objects.select_related("lease"):
            self.holds[hold.gpu_id].append(hold)
        self.kinds = {
            gpu.pk: {at: self._kind_at(gpu, at) for at in map(self.fleet.at, GRID)} for gpu in self.fleet.gpus
        }

    def free(self, at: datetime) -> int:
        return sum(kinds[at] is None for kinds in self.kinds.values())

    def unavailable(self, at: datetime) -> int:
        return sum(self._is_closed(gpu, at) or self._is_out(gpu, at) for gpu in self.fleet.gpus)

    def closed(self, at: datetime) -> int:
        return sum(self._is_closed(gpu, at) for gpu in self.fleet.gpus)

    def lasts(self, group: list[Gpu], count: int, start: datetime) -> datetime | None:
        """Until when `count` GPUs of a group that are free at `start` all stay free."""
        ends = sorted((self._free_until(gpu, start) for gpu in group), reverse=True)
        return ends[count - 1] if len(ends) >= count and ends[count - 1] > start else None

    def groups(self, flavor: Flavor | None) -> list[list[Gpu]]:
        """GPUs that may serve one lease together; what is out of service serves none."""
        one_node = flavor is not None and flavor.numa == Flavor.Numa.REQUIRED
        found: dict[object, list[Gpu]] = {}
        for gpu in self.fleet.gpus:
            found.setdefault((gpu.host_id, gpu.numa_node if one_node else 0), []).append(gpu)
        return list(found.values())

    def longest_end(self, group: list[Gpu], flavor: Flavor, start: datetime) -> datetime | None:
        """Of a lease of the flavor on GPUs of the group."""
        plan = self.fleet.plan
        until = self.lasts(group, flavor.gpu_count, max(self.fleet.now, start - plan.lead * MINUTE))
        end = until and until - plan.turnaround * MINUTE
        return end if end is not None and end > start else None

    def _free_until(self, gpu: Gpu, start: datetime) -> datetime:
        kinds, at = self.kinds[gpu.pk], start
        while kinds.get(at, "end of the grid") is None:
            at += MINUTE
        return at

    def _kind_at(self, gpu: Gpu, at: datetime) -> tuple[Kind, object] | None:
        """As the reader may see it."""
        hold = next((one for one in self.holds[gpu.pk] if one.starts_at <= at < one.ends_at), None)
        if hold is not None and hold.lease.tenant_id != self.fleet.leasers[STRANGER][0].pk:
            if at >= (hold.lease.stopped_at or hold.lease.ends_at):
                return Kind.TURNAROUND, hold.lease_id
            return Kind.LEASE if at >= hold.lease.starts_at else Kind.LEAD, hold.lease_id
        if self._is_closed(gpu, at):
            return Kind.CLOSED, None
        if self._is_out(gpu, at):
            return Kind.OUT, None
        return None if hold is None else (Kind.BUSY, None)

    def _is_closed(self, gpu: Gpu, at: datetime) -> bool:
        return any(
            closure.host_id == gpu.host_id
            and closure.gpu_id in (None, gpu.pk)
            and closure.starts_at <= at
            and (closure.ends_at is None or closure.ends_at > at)
            for closure in self.closures
        )

    def _is_out(self, gpu: Gpu, at: datetime) -> bool:
        return gpu.state not in BOOKABLE and at >= gpu.state_since


def minutes_of(starts_at: datetime, ends_at: datetime) -> list[datetime]:
    return [starts_at + n * MINUTE for n in range((ends_at - starts_at) // MINUTE)]


def compare(fleet: Fleet) -> None:
    truth, edges = Truth(fleet), fleet.edges
    for flavor in (None, *(fleet.flavors[which] for which in fleet.plan.wanted)):
        pool = Pool(fleet.ground.model, flavor)
        page = read_hosts(fleet.ground.person, pool, edges[0], edges[-1], offset=0, limit=9, now=fleet.now)
        assert page.count == len(page.rows) == len(fleet.plan.shape)
        compare_stretches(page, truth, minutes_of(edges[0], edges[-1]))
        overview = read_overview(pool, edges, now=fleet.now)
        assert overview.gpus == len(fleet.gpus)
        compare_steps(overview.steps, truth, flavor)
        compare_leasable(page, truth, flavor)
    compare_changes(truth)


def compare_stretches(page: HostPage, truth: Truth, moments: list[datetime]) -> None:
    for row in (gpu_row for host_row in page.rows for gpu_row in host_row.gpus):
        for one, following in pairwise(row.stretches):
            alike = (one.kind, one.lease_id) == (following.kind, following.lease_id)
            assert one.ends < following.starts or (one.ends == following.starts and not alike)
        for at in moments:
            shown = [(one.kind, one.lease_id) for one in row.stretches if one.starts <= micros(at) < one.ends]
            assert (shown[0] if shown else None) == truth.kinds[row.gpu.pk][at]
            assert not shown or shown[0][1] is None or shown[0][1] in page.leases
    others = {lease.tenant for lease in page.leases.values()}
    assert truth.fleet.leasers[STRANGER][0] not in others


def compare_steps(steps: list[Step], truth: Truth, flavor: Flavor | None) -> None:
    now = truth.fleet.now
    for step in steps:
        inside = minutes_of(step.starts_at, step.ends_at)
        free = [truth.free(at) for at in inside]
        assert (step.free_least, step.free_most) == (min(free), max(free))
        assert step.unavailable == max(truth.unavailable(at) for at in inside)
        if step.ends_at <= now:
            assert step.together is step.leasable is None
            continue
        start = max(step.starts_at, now)
        together = [
            count
            for group in truth.groups(flavor)
            for count in range(1, len(group) + 1)
            if (truth.lasts(group, count, start) or start) >= step.ends_at
        ]
        assert step.together == max(together, default=0)
        if flavor is not None:
            ends = [truth.longest_end(group, flavor, start) for group in truth.groups(flavor)]
            assert step.leasable == any(end is not None and end >= step.ends_at for end in ends)


def compare_leasable(page: HostPage, truth: Truth, flavor: Flavor | None) -> None:
    """A lease fits a host exactly if it lies in one of its spans; the longest of each start says it all."""
    if flavor is None:
        assert not any(row.leasable for row in page.rows)
        return
    since, until = max(truth.fleet.edges[0], truth.fleet.now), truth.fleet.edges[-1]
    for row in page.rows:
        host = row.gpus[0].gpu.host_id
        groups = [group for group in truth.groups(flavor) if group[0].host_id == host]
        for at in minutes_of(since, until):
            start = micros(at)
            shown = [one.ends for one in row.leasable if one.starts <= start < one.ends]
            ends = [end for group in groups if (end := truth.longest_end(group, flavor, at))]
            assert max(shown, default=None) == min(micros(max(ends)), micros(until)) if ends else not shown


def compare_changes(truth: Truth) -> None:
    fleet = truth.fleet
    since, until = fleet.edges[0], fleet.edges[-1]
    taken, closed = (changes(what, fleet.ground.model, since, until, limit=1000) for what in (TAKEN, CLOSED))
    for at in minutes_of(since, until):
        last = [[count for begins, count in found if begins <= at][-1] for found in (taken, closed)]
        assert last == [len(fleet.gpus) - truth.free(at), truth.closed(at)]
    assert changes(TAKEN, fleet.ground.model, since, until, limit=1) == taken[:1]


@pytest.mark.django_db
def test_the_calendar_is_the_slow_truth_and_tells_nothing_of_strangers() -> None:
    @chosen(FLEETS)
    @given(plans)
    def all_plans(plan: Plan) -> None:
        with transaction.atomic():
            compare(Fleet(plan))
            transaction.set_rollback(True)

    all_plans()


@given(spans, spans)
def test_what_is_common_and_what_is_not_make_the_whole(one: list[Span], other: list[Span]) -> None:
    def covered(found: list[Span]) -> set[int]:
        return {at for span in found for at in range(span.starts, span.ends)}

    assert covered(common(one, other)) == covered(one) & covered(other)
    assert covered(without(one, other)) == covered(one) - covered(other)


def test_a_gpu_that_is_taken_between_two_minutes_is_taken_at_none(ground: Ground) -> None:
    second = timedelta(seconds=1)
    for gpu, after, until in ((ground.gpu, 1, 59), (ground.other_gpu, 1, 61)):
        window = {"starts_at": NOW + after * second, "ends_at": NOW + until * second}
        Hold.objects.create(lease=ground.lease(), gpu=gpu, **window)
    taken = changes(TAKEN, ground.model, NOW, NOW + 5 * MINUTE, limit=9)
    assert taken == [(NOW, 0), (NOW + MINUTE, 1), (NOW + 2 * MINUTE, 0)]
    Hold.objects.update(ends_at=NOW + MINUTE + timedelta(microseconds=1))
    assert changes(TAKEN, ground.model, NOW, NOW + 5 * MINUTE, limit=9)[1] == (NOW + MINUTE, 2)
