"""Searches for workstations with a home volume, a snapshot or devices: what they answer is the slow truth."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hosts.models import Gpu, Host, StoragePool, UsbDevice
from leasing import devices, holds
from leasing.errors import NothingFree
from leasing.extras import Extras
from leasing.models import Flavor, HomeVolume, Lease, LeaseDevice, Person, Snapshot
from leasing.openings.spans import Span, first_beside, micros
from leasing.openings.upkeep import rebuild
from leasing.slots import bookable, find_start, is_free, longest_end
from leasing.timing import SHORTEST_LEASE
from tests.domain.ground import NOW, Ground
from tests.domain.oracle import MINUTE, Busy, Oracle

LONG_AGO = NOW - timedelta(days=1)
LENGTH = 60
HORIZON = NOW + 6 * LENGTH * MINUTE
DISK_GIB = 50
ALL = {"home", "snapshot", "device"}

minutes = st.integers(0, LENGTH)
lengths = st.integers(5, 25)


@dataclass(frozen=True)
class Plan:
    """Hosts, each with its GPUs and perhaps a pool; who has booked what; and what is asked for."""

    hosts: list[tuple[int, int | None]]
    lead: int
    turnaround: int
    home_in: int | None
    snapshot_in: int
    snapshot_gib: int
    device_at: int
    bookings: list[tuple[str, int, int, int]]
    wanted: frozenset[str]
    count: int
    duration: int
    earliest: int


plans = st.builds(
    Plan,
    hosts=st.lists(st.tuples(st.integers(1, 2), st.sampled_from([0, 0, 0, 1, None])), min_size=1, max_size=3),
    lead=st.sampled_from([0, 3, 3]),
    turnaround=st.sampled_from([0, 5]),
    home_in=st.sampled_from([None, 0, 0, 1]),
    snapshot_in=st.sampled_from([0, 0, 1]),
    snapshot_gib=st.sampled_from([1, DISK_GIB + 1]),
    device_at=st.integers(0, 2),
    bookings=st.lists(
        st.tuples(
            st.sampled_from(["plain", "plain", "home", "home of another", "device"]),
            st.integers(1, 2),
            st.one_of(minutes, st.integers(-25, 0)),
            lengths,
        ),
        min_size=2,
        max_size=8,
    ),
    wanted=st.sampled_from(
        [frozenset(one) for one in (["home"], ["home"], ["snapshot"], ["device"], ["device"], sorted(ALL))]
    ),
    count=st.integers(1, 2),
    duration=lengths,
    earliest=st.one_of(minutes, st.integers(0, 3)),
)


class Fleet:
    """The rows of a plan. Ada asks; Bob has booked as well, sometimes with the device."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.ground = plan, Ground()
        ground = self.ground
        ground.model.lead_seconds, ground.model.turnaround_seconds = 60 * plan.lead, 60 * plan.turnaround
        ground.model.save()
        Gpu.objects.all().delete()
        rebuild(ground.host.pk)
        self.pools = [StoragePool.objects.create(name=name) for name in ("one", "other")]
        self.hosts = [self.host(number, *shape) for number, shape in enumerate(plan.hosts, 2)]
        self.flavors = {
            count: Flavor.objects.create(slug=f"x{count}", name="x", model=ground.model, gpu_count=count)
            for count in (1, 2)
        }
        self.bob = Person.objects.create(username="bob", email="bob@example.org")
        there = self.hosts[plan.device_at % len(self.hosts)]
        self.device = UsbDevice.objects.create(host=there, usb_id="056a:0374", port="1-2", name="Tablet")
        if plan.home_in is not None:
            HomeVolume.objects.create(
                tenant=ground.tenant, person=ground.person, pool=self.pools[plan.home_in], size_gib=1,
                state="detached", state_since=NOW, created_at=NOW,
            )  # fmt: skip
        for booking in plan.bookings:
            with suppress(NothingFree), transaction.atomic():
                self.book(*booking)

    def host(self, number: int, gpus: int, pool: int | None) -> Host:
        key = f"{number:02d}"
        host = Host.objects.create(
            name=f"hv{number}", account=f"hv{number}", signing_key=key * 32, key_id=key * 8,
            sealing_key=key * 32, pool=None if pool is None else self.pools[pool],
        )  # fmt: skip
        for index in range(gpus):
            Gpu.objects.create(
                host=host, model=self.ground.model, address=f"0000:{index:02x}:00.0", state="clean",
                state_since=LONG_AGO, share_vcpus=1, share_memory_mib=1, share_disk_gib=DISK_GIB,
            )  # fmt: skip
        rebuild(host.pk)
        return host

    def book(self, what: str, count: int, start: int, length: int) -> None:
        lease = self.ground.lease(
            owner=self.ground.person if what == "home" else self.bob,
            flavor=self.flavors[count],
            with_home=what.startswith("home"),
            starts_at=NOW + start * MINUTE,
            ends_at=NOW + (start + length) * MINUTE,
            bound_to=self.device.host if what == "device" else None,
        )
        if what == "device":
            LeaseDevice.objects.create(lease=lease, device=self.device)
        holds.place(lease, now=LONG_AGO)

    @property
    def extras(self) -> Extras:
        plan, with_device = self.plan, "device" in self.plan.wanted
        snapshot = Snapshot(pool=self.pools[plan.snapshot_in], size_gib=plan.snapshot_gib)
        return Extras(
            tenant_id=self.ground.tenant.pk,
            owner_id=self.ground.person.pk,
            with_home="home" in plan.wanted,
            snapshot=snapshot if "snapshot" in plan.wanted else None,
            host_id=self.device.host_id if with_device else None,
            devices=(self.device,) if with_device else (),
        )

    @property
    def flavor(self) -> Flavor:
        return self.flavors[self.plan.count]

    def truth(self) -> Oracle:
        wanted, leases = self.plan.wanted, list(Lease.objects.all())
        with_home = [one for one in leases if one.with_home and one.owner_id == self.ground.person.pk]
        in_use = [hold for lease in leases if lease.devices.exists() for hold in lease.holds.all()]
        return Oracle(
            self.flavor,
            now=NOW,
            horizon=HORIZON,
            hosts={host.pk for host in self.hosts if self.may_serve(host, with_home)},
            apart=[Busy(one.starts_at, one.ends_at) for one in with_home if "home" in wanted],
            in_use=[Busy(hold.starts_at, hold.ends_at) for hold in in_use if "device" in wanted],
        )

    def may_serve(self, host: Host, with_home: list[Lease]) -> bool:
        """Whether all that is wanted is there."""
        plan = self.plan
        if "device" in plan.wanted and host != self.device.host:
            return False
        if "snapshot" in plan.wanted:
            room = self.flavor.gpu_count * DISK_GIB
            if host.pool != self.pools[plan.snapshot_in] or room < plan.snapshot_gib:
                return False
        if "home" not in plan.wanted:
            return True
        if plan.home_in is not None:
            return host.pool == self.pools[plan.home_in]
        booked = {hold.gpu.host.pool for lease in with_home for hold in lease.holds.all()} - {None}
        return host.pool in booked if booked else host.pool is not None


@pytest.mark.django_db
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans)
def test_what_is_found_is_the_slow_truth(plan: Plan) -> None:
    with transaction.atomic():
        fleet = Fleet(plan)
        flavor, extras, truth = fleet.flavor, fleet.extras, fleet.truth()
        earliest, duration = NOW + plan.earliest * MINUTE, plan.duration * MINUTE

        start = find_start(flavor, duration, earliest=earliest, extras=extras, now=NOW)
        assert start == truth.first_start(duration, earliest)
        free = is_free(flavor, earliest, earliest + duration, extras=extras, now=NOW)
        assert free == truth.fits(earliest, earliest + duration)

        until = earliest + 3 * LENGTH * MINUTE
        end = truth.longest_end(earliest, until)
        wanted = end if end is not None and end - earliest >= SHORTEST_LEASE else None
        assert longest_end(flavor, earliest, until=until, extras=extras, now=NOW) == wanted

        spans = bookable(flavor, NOW, until, extras=extras, now=NOW)
        for begin in range(2 * LENGTH):
            window = NOW + begin * MINUTE, NOW + begin * MINUTE + duration
            if duration >= SHORTEST_LEASE and window[1] <= until:
                assert _within(window, spans) == truth.fits(*window), window
        transaction.set_rollback(True)


@pytest.mark.django_db
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans)
def test_what_is_said_to_be_free_with_a_device_is_what_can_be_booked(plan: Plan) -> None:
    """By the windows of leases it is told, by the holds that are there it is refused; and the slow truth."""
    with transaction.atomic():
        fleet = Fleet(replace(plan, wanted=frozenset({"device"})))
        starts_at = NOW + plan.earliest * MINUTE
        window = {"starts_at": starts_at, "ends_at": starts_at + plan.duration * MINUTE}
        told = is_free(fleet.flavor, *window.values(), extras=fleet.extras, now=NOW)
        assert told == fleet.truth().fits(*window.values())
        lease = fleet.ground.lease(flavor=fleet.flavor, bound_to=fleet.device.host, **window)
        devices.give(lease, [fleet.device])
        try:
            holds.place(lease, now=NOW)
            devices.require_free(lease)
            booked = True
        except NothingFree:
            booked = False
        assert booked == told
        transaction.set_rollback(True)


def _within(window: tuple[datetime, datetime], spans: list[Span]) -> bool:
    starts, ends = map(micros, window)
    return any(span.starts <= starts and ends <= span.ends for span in spans)


@given(
    spans=st.lists(st.tuples(minutes, lengths), max_size=6), start=minutes, length=st.integers(1, LENGTH)
)  # fmt: skip
def test_the_first_window_beside_others_is_the_slow_truth(
    spans: list[tuple[int, int]], start: int, length: int
) -> None:

    taken = [Span(a, a + b) for a, b in spans]
    slow = start
    while any(slow < span.ends and slow + length > span.starts for span in taken):
        slow += 1
    assert first_beside(taken, start, length) == slow
