"""Until when a lease can be extended: as far as trying every minute says, whoever comes after it.

Set LEASEHOLD_FLEETS to try that many other fleets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple
from uuid import UUID

import pytest
from django.db import transaction
from django.db.models import Q
from hypothesis import given
from hypothesis import strategies as st

from hosts.models import Gpu
from leasing import tick
from leasing.errors import DomainError, NothingFree
from leasing.fsck import bookings, limits, run_checks, waiting
from leasing.latest_end import ExtensionLimit, extension_limit
from leasing.models import Closure, Flavor, Hold, Lease, WaitlistEntry
from leasing.openings.upkeep import rebuild, refresh_host
from leasing.states.lease import AHEAD
from leasing.timing import LONGEST_LEASE
from leasing.waitlist import join_waitlist
from tests.chosen import chosen, how_many
from tests.domain.oracle import Busy, Oracle
from tests.domain.test_changing import HOUR, MINUTE, book, end_at
from tests.domain.test_waitlist import House
from tests.world import World

pytestmark = pytest.mark.django_db
FLEETS = how_many(25)
CHECKS = (
    bookings.holds_do_not_overlap,
    bookings.openings_match_holds,
    limits.bookings_were_allowed,
    waiting.kept_is_for_who_waits,
)
# Longer ones would need an approval.
UNASKED = timedelta(days=7)
WIDTHS = ((1, "preferred"), (2, "preferred"), (2, "required"), (3, "preferred"))

HOST, EVER = 4, 5
minutes, lengths = st.integers(60, 420), st.integers(10, 120)
# Which flavor, from when on, and how long.
wanted = st.tuples(st.sampled_from([0, 0, 1, 2, 3]), minutes, lengths)


class Closing(NamedTuple):
    """Of a GPU, or of its whole host, or of that without an end."""

    gpu: int
    start: int
    kind: int
    length: int


class Wish(NamedTuple):
    """For one of the widest flavors that there are GPUs for."""

    which: int
    start: int
    length: int
    slack: int


@dataclass
class Fleet:
    """Two hosts, on which this is booked and closed; one person waits for something."""

    shape: tuple[int, int]
    booked: list[tuple[int, int, int]]
    closed: list[Closing]
    wished: list[Wish]
    leases: list[Lease] = field(default_factory=list)

    def build(self) -> None:
        self.world = world = World(gpus=0, concurrent_gpus=99)
        for number, host in enumerate((world.host, world.enrol("hv2"))):
            for index in range(self.shape[number]):
                Gpu.objects.create(
                    id=UUID(int=10 * number + index), host=host.row, model=world.model,
                    address=f"0000:{index:02x}:00.0", numa_node=index % 2, state="clean",
                    state_since=world.now, share_vcpus=1, share_memory_mib=1, share_disk_gib=1,
                )  # fmt: skip
            rebuild(host.row.pk)
        self.flavors = [
            Flavor.objects.create(
                slug=f"{count}-{numa}", name="x", model=world.model, gpu_count=count, numa=numa
            )
            for count, numa in WIDTHS
        ]
        for flavor in self.flavors:
            world.price(flavor)
        for which, start, length in self.booked:
            with suppress(NothingFree), transaction.atomic():
                begin = start * MINUTE
                self.leases.append(book(world, begin, begin + length * MINUTE, flavor=self.flavors[which]))
        for closing in self.closed:
            self.close(closing)
        for wish in self.wished:
            with suppress(DomainError), transaction.atomic():
                self.join(wish)
        tick.serve_lines(world.now)

    def close(self, closing: Closing) -> None:
        gpus = Gpu.objects.order_by("host__name", "address")
        gpu = gpus[closing.gpu % len(gpus)]
        only = None if closing.kind in (HOST, EVER) else gpu
        starts_at = self.world.now + closing.start * MINUTE
        ends_at = None if closing.kind == EVER else starts_at + closing.length * MINUTE
        Closure.objects.create(
            host=gpu.host, gpu=only, starts_at=starts_at, ends_at=ends_at, created_at=self.world.now
        )
        refresh_host(gpu.host_id, starts_at, ends_at)

    def join(self, wish: Wish) -> None:
        """By somebody of another team, after all those who have booked."""
        world, earliest = self.world, self.world.now + wish.start * MINUTE
        fitting = [flavor for flavor in reversed(self.flavors) if flavor.gpu_count <= max(self.shape)]
        join_waitlist(
            actor=world.actor(world.bob), tenant=world.research, flavor=fitting[wish.which % len(fitting)],
            image=world.image, duration=wish.length * MINUTE, earliest=earliest,
            deadline=earliest + (wish.length + wish.slack) * MINUTE, now=world.now,
        )  # fmt: skip


fleets = st.builds(
    Fleet,
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    booked=st.lists(wanted, min_size=5, max_size=12),
    closed=st.lists(
        st.builds(Closing, st.integers(0, 6), minutes, st.integers(0, 5), st.integers(1, 90)), max_size=2
    ),
    wished=st.lists(
        st.builds(Wish, st.integers(0, 3), minutes, lengths, st.integers(0, 30)), min_size=1, max_size=3
    ),
)


Other = Lease | Closure | WaitlistEntry


def others_on(lease: Lease) -> list[tuple[Other, Busy]]:
    """All that anybody else has on the GPUs of a lease."""
    gpus = {hold.gpu_id: hold.gpu.host_id for hold in lease.holds.select_related("gpu")}
    held = Hold.objects.filter(gpu__in=gpus).exclude(lease=lease).select_related("lease__flavor__model")
    found: list[tuple[Other, Busy]] = [(hold.lease, Busy(hold.starts_at, hold.ends_at)) for hold in held]
    closures = Closure.objects.filter(Q(gpu=None) | Q(gpu__in=gpus), host__in=gpus.values())
    found += [(closure, Busy(closure.starts_at, closure.ends_at)) for closure in closures]
    for entry in WaitlistEntry.objects.filter(kept_gpus__in=gpus):
        assert entry.kept_from is not None
        found.append((entry, Busy(entry.kept_from, entry.kept_until)))
    return found


def limit_by_trying(lease: Lease, *, now: datetime) -> ExtensionLimit:
    """Minute by minute: nothing is in the way, or only one lease that could have other GPUs instead."""
    ours = set(lease.holds.values_list("gpu_id", flat=True))
    (held_until,) = set(lease.holds.values_list("ends_at", flat=True))
    turnaround = timedelta(seconds=lease.flavor.model.turnaround_seconds)
    longest = lease.starts_at + LONGEST_LEASE
    others = others_on(lease)
    last = max((busy.starts_at for _other, busy in others), default=now)

    @cache
    def could_move(other: Other) -> bool:
        if not isinstance(other, Lease) or other.state not in AHEAD:
            return False
        oracle = Oracle(other.flavor, now=now, horizon=now, without=[other.pk])
        oracle.keep(WaitlistEntry.objects.all())
        oracle.gpus = [gpu for gpu in oracle.gpus if gpu.pk not in ours]
        return oracle.fits(other.starts_at, other.ends_at)

    def in_the_way(ends_at: datetime) -> set[Other]:
        return {other for other, busy in others if busy.meets(held_until, ends_at + turnaround)}

    def latest(possible: Callable[[set[Other]], bool]) -> datetime:
        ends_at = lease.ends_at
        while ends_at < longest and possible(in_the_way(ends_at + MINUTE)):
            ends_at = ends_at + MINUTE if ends_at < last else longest
        return ends_at

    stays = latest(lambda them: not them)
    until = latest(lambda them: len(them) <= 1 and all(map(could_move, them)))
    (moves,) = in_the_way(until) if until > stays else [None]
    assert moves is None or isinstance(moves, Lease)
    then = in_the_way(until + MINUTE) if until < longest else set()
    closed = any(isinstance(one, Closure) for one in then)
    return ExtensionLimit(until, bool(then) and not closed, stays, moves, closed)


def extend_to_the_limit(world: World, lease: Lease) -> None:
    until = min(extension_limit(lease, now=world.now).until, lease.starts_at + UNASKED)
    if until < lease.starts_at + UNASKED:
        with pytest.raises(NothingFree), transaction.atomic():
            end_at(world, lease, until + MINUTE)
    end_at(world, lease, until)
    assert lease.ends_at == until
    assert [finding for check in CHECKS for finding in check(world.now)] == []


@pytest.mark.timeout(max(60, 2 * FLEETS))
def test_an_extension_is_possible_until_the_limit_and_not_a_minute_longer() -> None:
    """All limits are compared with what trying says; one lease is extended to its own in truth."""
    told: Counter[str] = Counter()

    @chosen(FLEETS)
    @given(fleets, st.integers(0, 99))
    def compare(fleet: Fleet, which: int) -> None:
        with transaction.atomic():
            fleet.build()
            now, leases = fleet.world.now, fleet.leases
            for lease in leases:
                limit = extension_limit(lease, now=now)
                assert limit == limit_by_trying(lease, now=now)
                told.update(name for name in ("taken", "moves", "closed") if getattr(limit, name))
            told["kept"] += WaitlistEntry.objects.filter(kept_from__isnull=False).exists()
            if leases:
                extend_to_the_limit(fleet.world, leases[which % len(leases)])
            transaction.set_rollback(True)

    compare()
    for what in ("taken", "moves", "closed", "kept"):
        assert told[what] >= FLEETS // 25, f"nearly no limit has to do with what is {what}"


def only_on(lease: Lease, gpu: Gpu) -> Lease:
    """The lease, but on this GPU."""
    Hold.objects.filter(lease=lease).update(gpu=gpu)
    for host_id in Gpu.objects.values_list("host_id", flat=True).distinct():
        rebuild(host_id)
    return lease


def test_the_next_lease_moves_to_another_host_if_its_own_has_nothing_for_it() -> None:
    world = World(gpus=1)
    (elsewhere,) = world.admit(world.enrol("hv2"), 1)
    lease = only_on(book(world, 1 * HOUR, 3 * HOUR), world.gpus[0])
    blocker = only_on(book(world, 6 * HOUR, 8 * HOUR), world.gpus[0])
    assert extension_limit(lease, now=world.now).moves == blocker
    end_at(world, lease, world.now + 7 * HOUR)
    assert blocker.holds.get().gpu == elsewhere
    assert run_checks(world.now) == []


@pytest.mark.parametrize("soonest", range(3))
def test_whichever_of_several_gpus_is_wanted_first_ends_it(soonest: int) -> None:
    world = World(gpus=3)
    trio = Flavor.objects.create(slug="trio", name="Trio", model=world.model, gpu_count=3)
    world.price(trio)
    lease = book(world, 1 * HOUR, 3 * HOUR, flavor=trio)
    for number, gpu in enumerate(sorted(world.gpus, key=lambda gpu: gpu.pk)):
        start = (6 if number == soonest else 9) * HOUR
        only_on(book(world, start, start + HOUR), gpu)
    limit = extension_limit(lease, now=world.now)
    assert limit.until == world.now + 6 * HOUR - timedelta(seconds=120 + 300)
    assert limit.taken


def test_what_is_kept_for_the_first_in_line_ends_it() -> None:
    """Also where nothing is booked yet."""
    house = House()
    house.end(house.booked[0])
    lease = house.book(house.eve, start=1, hours=4)
    house.book(house.bob, start=9, hours=4)
    house.join(house.ada, hours=4, start=4, deadline=12)
    house.tick()
    limit = extension_limit(lease, now=house.now)
    assert limit.taken
    assert limit.until == house.now + 8 * HOUR - timedelta(seconds=120 + 300)
    assert run_checks(house.now) == []
