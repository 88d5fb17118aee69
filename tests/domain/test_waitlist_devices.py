"""Waiting in line with USB devices, which are at one host, and in one machine at a time."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from hosts.models import GpuModel, UsbDevice
from hosts.protocol import messages as m
from leasing import goals
from leasing.actors import SYSTEM
from leasing.audit.verifier import verify_log
from leasing.choosing_devices import choose_devices
from leasing.ending import end_lease
from leasing.enrolment.changes import retire_host
from leasing.errors import InvalidRequest, NothingFree
from leasing.fleet import admit_gpu
from leasing.fsck import run_checks
from leasing.models import AuditEntry, Flavor, Lease, WaitlistEntry
from leasing.reasons import because
from leasing.waitlist import claim_offer, join_waitlist, outlook
from tests.domain.test_devices import DIAL, TABLET, Studio, hosts_of, number_of

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
PEN = m.UsbDevice(usb_id="056a:0378", port="1-7")


@pytest.fixture
def world() -> Any:
    studio = Studio()
    yield studio
    assert run_checks(studio.now) == []
    assert verify_log().problems == []


def join(world: Studio, *devices: m.UsbDevice, hours: int = 2, deadline: int = 4) -> WaitlistEntry:
    return join_waitlist(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        duration=hours * HOUR, earliest=world.now + HOUR, deadline=world.now + deadline * HOUR,
        usb=[number_of(device) for device in devices], now=world.now,
    )  # fmt: skip


def end(world: Studio, lease: Lease) -> None:
    end_lease(actor=world.actor(lease.owner), lease_id=lease.pk, now=world.now)
    world.tick()


def settle(world: Studio, entry: WaitlistEntry) -> None:
    """Until all that is free was looked at for it."""
    while entry.fresh:
        world.tick()
        entry.refresh_from_db()


def offered(entry: WaitlistEntry) -> Lease | None:
    return Lease.objects.filter(entry=entry, state="offered").first()


def test_a_device_that_somebody_gives_back_is_offered_with_gpus_of_its_host(world: Studio) -> None:
    taken = world.book(TABLET, after=1, hours=8)
    beside = [world.book(after=1, hours=8) for _ in range(4)]
    elsewhere = next(lease for lease in beside if hosts_of(lease) == {"hv1"})
    assert hosts_of(taken) == {"hv2"}
    entry = join(world, TABLET)
    end(world, elsewhere)
    assert offered(entry) is None
    found = outlook(entry, now=world.now)
    assert found.free_from is not None
    assert found.free_from > taken.ends_at
    end(world, taken)
    offer = offered(entry)
    assert offer is not None
    claimed = claim_offer(actor=world.actor(world.ada), entry_id=entry.pk, now=world.now)
    assert (hosts_of(claimed), goals.provision(claimed).machine.chosen_usb) == ({"hv2"}, (TABLET,))
    told = AuditEntry.objects.filter(action__in=["waitlist.join", "lease.offer"]).order_by("id")
    assert [json.loads(one.text)["detail"]["usb"] for one in told] == [["056a:0357 1-2"]] * 2


def test_a_device_that_a_workstation_goes_without_is_offered_although_no_gpu_came_free(world: Studio) -> None:
    taken = world.book(TABLET, DIAL, after=1, hours=8)
    entry = join(world, DIAL)
    settle(world, entry)
    assert offered(entry) is None
    usb = [number_of(TABLET)]
    choose_devices(actor=world.actor(world.ada), lease_id=taken.pk, usb=usb, now=world.now)
    world.tick()
    assert offered(entry) is not None
    with pytest.raises(NothingFree, match="somebody else's then"):
        world.book(DIAL, after=2, hours=1)


def test_a_device_is_offered_when_it_was_in_a_workstation_of_another_model(world: Studio) -> None:
    other = GpuModel.objects.create(
        slug="other", name="Other", memory_mib=64, vendor_device=world.model.vendor_device
    )
    train = Flavor.objects.create(slug="train", name="Train", model=other)
    world.price(train)
    host = world.enrol("hv3")
    host.inventory("0000:01:00.0", "0000:02:00.0", at=world.now)
    for card, model in zip(host.row.found_cards.order_by("address"), (world.model, other), strict=True):
        gpu = admit_gpu(actor=SYSTEM, card_id=card.pk, model_id=model.pk, now=world.now)
        world.tick()
        world.scrub(host, gpu)
    world.look(host, PEN)
    taken = world.book(PEN, flavor=train, after=1, hours=8)
    entry = join(world, PEN)
    settle(world, entry)
    assert offered(entry) is None
    end(world, taken)
    offer = offered(entry)
    assert offer is not None
    assert (offer.flavor, hosts_of(offer)) == (world.flavor, {"hv3"})


def test_nothing_is_offered_while_it_is_unplugged(world: Studio) -> None:
    taken = world.book(TABLET, after=1, hours=8)
    entry = join(world, TABLET)
    world.plug(DIAL)
    end(world, taken)
    settle(world, entry)
    assert offered(entry) is None
    world.plug(DIAL, TABLET)
    world.tick()
    assert offered(entry) is not None


def test_who_waits_for_what_is_at_a_retired_host_is_told(world: Studio) -> None:
    taken = world.book(TABLET, after=1, hours=8)
    entry = join(world, TABLET)
    world.plug()
    end(world, taken)
    assert offered(entry) is None
    retire_host(actor=world.actor(world.operator), host_id=world.other.row.pk, now=world.now)
    world.tick()
    entry.refresh_from_db()
    assert (entry.outcome, entry.outcome_reason) == ("withdrawn", because("wait-no-device"))


def test_nobody_joins_for_what_can_be_booked_or_cannot_be_chosen(world: Studio) -> None:
    with pytest.raises(InvalidRequest, match="nothing to wait for"):
        join(world, TABLET)
    there = UsbDevice.objects.create(host=world.host.row, usb_id="056a:0357", port="1-9")
    world.book(TABLET, after=1, hours=8)
    assert number_of(TABLET) != there.pk
    with pytest.raises(InvalidRequest, match="different hosts"):
        join(world, TABLET, m.UsbDevice(usb_id=there.usb_id, port=there.port))
    world.plug()
    with pytest.raises(InvalidRequest, match="No host has this device"):
        join(world, TABLET)
