"""USB devices that people choose: theirs alone for their time, at the host where they are plugged in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from hosts.models import UsbDevice
from hosts.protocol import messages as m
from leasing import goals, holds, moving
from leasing.audit.verifier import verify_log
from leasing.booking import request_lease
from leasing.changing import change_end, change_window
from leasing.choosing_devices import choose_devices
from leasing.devices import chosen_devices
from leasing.ending import end_lease
from leasing.errors import DomainError, InvalidRequest, NothingFree, NotVisible, WrongState
from leasing.extras import extras_for, extras_of
from leasing.fsck import run_checks
from leasing.models import Hold, Lease, LeaseDevice
from leasing.slots import find_start, is_free
from leasing.states.lease import HOLDING, LeaseState
from tests.world import ScriptedHost, World, inventory

TABLET = m.UsbDevice(usb_id="056a:0357", port="1-2", name="Wacom Intuos Pro")
DIAL = m.UsbDevice(usb_id="046d:c31c", port="1-3")
HOUR = timedelta(hours=1)


class Studio(World):
    """Two hosts; the devices are at the second."""

    def __init__(self) -> None:
        super().__init__(gpus=2, concurrent_gpus=16)
        self.other: ScriptedHost = self.enrol("hv2")
        self.admit(self.other, 3)
        self.plug(TABLET, DIAL)

    def plug(self, *devices: m.UsbDevice) -> None:
        """What is plugged in now."""
        self.look(self.host)
        self.look(self.other, *devices)

    def look(self, host: ScriptedHost, *devices: m.UsbDevice) -> None:
        seen = inventory(*host.row.gpus.values_list("address", flat=True), machines=host.machines())
        host.say(msgspec.structs.replace(seen, usb=devices), at=self.now)

    def book(self, *devices: m.UsbDevice, after: int = 0, hours: int = 2, **changes: Any) -> Lease:
        asked: dict[str, Any] = {
            "tenant": self.studio,
            "flavor": self.flavor,
            "image": self.image,
            "starts_at": self.now + after * HOUR if after else None,
            "ends_at": self.now + (after + hours) * HOUR,
            "usb": [number_of(device) for device in devices],
        }
        return request_lease(actor=self.actor(self.ada), now=self.now, **(asked | changes))


@pytest.fixture
def world(db: None) -> Studio:
    return Studio()


def number_of(device: m.UsbDevice) -> int:
    return UsbDevice.objects.get(port=device.port).pk


def hosts_of(lease: Lease) -> set[str]:
    return set(lease.holds.values_list("gpu__host__name", flat=True))


def test_a_device_brings_its_lease_to_its_host_and_into_the_order(world: Studio) -> None:
    lease = world.book(TABLET, DIAL)
    assert hosts_of(lease) == {"hv2"}
    assert goals.provision(lease).machine.chosen_usb == (TABLET, DIAL)
    assert goals.provision(world.book()).machine.chosen_usb == ()
    assert run_checks(world.now) == []
    assert verify_log().problems == []


def test_nobody_else_has_it_at_the_same_time(world: Studio) -> None:
    lease = world.book(TABLET)
    with pytest.raises(NothingFree, match="Wacom Intuos Pro is somebody else's then"):
        world.book(TABLET, DIAL, after=1)
    assert Lease.objects.count() == 1, "nothing is left of it"
    world.book(DIAL, after=1, hours=1)
    later = world.book(TABLET, after=3)
    with pytest.raises(NothingFree, match="somebody else's"):
        change_window(
            actor=world.actor(world.ada),
            lease_id=later.pk,
            starts_at=world.now + HOUR,
            ends_at=world.now + 3 * HOUR,
            now=world.now,
        )
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    world.book(TABLET)
    assert run_checks(world.now) == []


@pytest.mark.parametrize("state", sorted(HOLDING - {LeaseState.OFFERED}))
def test_it_is_a_leases_as_long_as_that_holds_gpus(world: Studio, state: str) -> None:
    lease = world.book(TABLET)
    Lease.objects.filter(pk=lease.pk).update(state=state)
    window = (world.now + HOUR, world.now + 2 * HOUR)
    extras = extras_for(world.studio, world.ada, devices=chosen_devices(world.flavor, [number_of(TABLET)]))
    assert not is_free(world.flavor, *window, extras=extras, now=world.now)
    assert is_free(world.flavor, *window, extras=extras_of(lease), now=world.now), (
        "in nobody's way but others'"
    )
    with pytest.raises(NothingFree, match="somebody else's"):
        world.book(TABLET, after=1)


def test_what_is_over_by_now_is_in_nobodys_way_also_within_a_lead(
    world: Studio,
) -> None:
    """Nothing is held before now: a lease that begins at once has its lead cut."""
    lease = world.book(TABLET)
    Hold.objects.filter(lease=lease).update(ends_at=world.now + 2 * HOUR)
    world.now += 2 * HOUR
    assert timedelta(seconds=world.model.lead_seconds) > timedelta(0)
    extras = extras_for(world.studio, world.ada, devices=chosen_devices(world.flavor, [number_of(TABLET)]))
    asked = {"starts_at": world.now, "ends_at": world.now + HOUR}
    assert not is_free(world.flavor, **asked, extras=extras, now=world.now - timedelta(seconds=1))
    assert is_free(world.flavor, **asked, extras=extras, now=world.now)
    assert find_start(world.flavor, HOUR, extras=extras, now=world.now) == world.now
    world.book(TABLET)


def test_an_extension_does_not_take_it_away(world: Studio) -> None:
    lease = world.book(TABLET, after=1)
    world.book(TABLET, after=5)
    change_end(actor=world.actor(world.ada), lease_id=lease.pk, ends_at=world.now + 4 * HOUR, now=world.now)
    with pytest.raises(NothingFree, match="somebody else's"):
        change_end(
            actor=world.actor(world.ada), lease_id=lease.pk, ends_at=world.now + 6 * HOUR, now=world.now
        )
    lease.refresh_from_db()
    assert lease.ends_at == world.now + 4 * HOUR


@pytest.mark.parametrize("what", ["unknown", "at a host without such GPUs", "given by a flavor", "gone"])
def test_what_cannot_be_had_is_refused(world: Studio, what: str) -> None:
    changes: dict[str, Any] = {"usb": [number_of(TABLET)]}
    if what == "unknown":
        changes = {"usb": [10**15]}
    elif what == "at a host without such GPUs":
        UsbDevice.objects.update(host=world.enrol("hv3").row)
    elif what == "given by a flavor":
        world.flavor.usb_devices = [TABLET.usb_id]
        world.flavor.save()
    else:
        world.plug(DIAL)
    with pytest.raises(InvalidRequest, match="No host has this device"):
        world.book(**changes)


def test_devices_of_two_hosts_do_not_come_together(world: Studio) -> None:
    there = UsbDevice.objects.create(host=world.host.row, usb_id="056a:0357", port="1-9")
    with pytest.raises(InvalidRequest, match="different hosts"):
        world.book(usb=[there.pk, number_of(TABLET)])


def test_it_waits_for_a_device_that_was_unplugged_or_goes_without(world: Studio) -> None:
    first, second = world.book(TABLET, after=1), world.book(DIAL, after=1)
    world.now += HOUR
    world.plug()
    world.tick()
    for lease in (first, second):
        lease.refresh_from_db()
        assert lease.state == "scheduled"
        assert "not plugged in" in str(lease.waiting_because)
    choose_devices(actor=world.actor(world.ada), lease_id=first.pk, usb=[], now=world.now)
    world.plug(DIAL)
    world.tick()
    for lease in (first, second):
        lease.refresh_from_db()
        assert lease.state == "provisioning"
    with pytest.raises(WrongState):
        choose_devices(actor=world.actor(world.ada), lease_id=first.pk, usb=[], now=world.now)


def test_another_choice_moves_it_or_changes_nothing(world: Studio) -> None:
    ada, taken = world.actor(world.ada), world.book(TABLET, after=1)
    lease = world.book(after=1)
    with pytest.raises(DomainError, match="somebody else's"):
        choose_devices(actor=ada, lease_id=lease.pk, usb=[number_of(TABLET)], now=world.now)
    lease.refresh_from_db()
    assert (lease.bound_to, lease.devices.count()) == (None, 0)
    choose_devices(actor=ada, lease_id=taken.pk, usb=[], now=world.now)
    choose_devices(actor=ada, lease_id=lease.pk, usb=[number_of(TABLET)], now=world.now)
    assert hosts_of(lease) == {"hv2"}
    with pytest.raises(NotVisible):
        choose_devices(actor=world.actor(world.bob), lease_id=lease.pk, usb=[], now=world.now)
    assert run_checks(world.now) == []


def test_fsck_finds_a_device_that_two_have_or_that_is_elsewhere(world: Studio) -> None:
    first, second = world.book(TABLET, after=1), world.book(DIAL, after=1)
    LeaseDevice.objects.filter(lease=second).update(device=number_of(TABLET))
    assert [finding.check for finding in run_checks(world.now)] == ["devices"]
    LeaseDevice.objects.filter(lease=second).delete()
    Lease.objects.filter(pk=first.pk).update(bound_to=world.host.row)
    assert {finding.check for finding in run_checks(world.now)} == {"devices"}


def test_a_lease_is_not_moved_over_somebody_elses_time_with_its_device(world: Studio) -> None:
    """Its GPUs come late, and until then its device is the next one's."""
    late = world.book(TABLET, after=2, hours=4)
    (hold,) = late.holds.all()
    holds.delay(late, [hold.gpu_id], world.now + 4 * HOUR)
    world.book(TABLET, after=1, hours=2)
    before = list(late.holds.values())
    assert not moving.move(late, now=world.now, only_ready=False)
    assert not moving.make_way(late, frozenset(), now=world.now)
    assert list(late.holds.values()) == before
    assert run_checks(world.now) == []
