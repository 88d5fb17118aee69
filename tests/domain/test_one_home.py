"""One home volume, several wishes: booked, waited for, extended, offered; nobody is promised it twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hosts.models import GpuModel, UsbDevice
from leasing.audit.verifier import verify_log
from leasing.changing import change_end, confirm_extension, fail_extension
from leasing.ending import end_lease
from leasing.errors import InvalidRequest, NothingFree
from leasing.fsck import run_checks
from leasing.latest_end import extension_limit
from leasing.models import Block, Extension, Flavor, Lease
from leasing.slots import find_start
from leasing.waitlist import claim_offer
from tests.domain.test_homes import a_world, give_pool
from tests.domain.test_waitlist_extras import HOUR, book, end, join, offered, with_home
from tests.world import World

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> Any:
    made, _key = a_world(gpus=2)
    yield made
    assert run_checks(made.now) == []
    assert verify_log().problems == []


def a_pair(world: World) -> Flavor:
    pair = Flavor.objects.create(slug="pair", name="Pair", model=world.model, gpu_count=2)
    world.price(pair)
    return pair


def test_a_later_end_counts_from_when_it_is_asked_for(world: World) -> None:
    lease = book(world, world.ada, with_home=True, start=0, hours=4)
    world.start(lease)
    later = lease.ends_at + 4 * HOUR
    change_end(actor=world.actor(world.ada), lease_id=lease.pk, ends_at=later, now=world.now)
    assert Extension.objects.get().state == "pending"
    start = find_start(
        world.flavor, 2 * HOUR, earliest=world.now + 5 * HOUR, extras=with_home(world), now=world.now
    )
    assert start == later
    with pytest.raises(InvalidRequest, match="Your home volume is booked with"):
        book(world, world.ada, with_home=True, start=5, hours=2)
    fail_extension(Lease.objects.get(pk=lease.pk), now=world.now)
    book(world, world.ada, with_home=True, start=5, hours=2)


def test_fsck_finds_a_home_that_two_are_to_have() -> None:
    world, _key = a_world(gpus=2)
    lease = book(world, world.ada, with_home=True, start=0, hours=4)
    world.start(lease)
    second = book(world, world.ada, with_home=True, start=5, hours=2)
    assert run_checks(world.now) == []
    later = second.starts_at + HOUR
    Lease.objects.filter(pk=second.pk).update(with_home=False)
    change_end(actor=world.actor(world.ada), lease_id=lease.pk, ends_at=later, now=world.now)
    Lease.objects.filter(pk=second.pk).update(with_home=True)
    (found,) = run_checks(world.now)
    assert (found.check, found.subject) == ("homes", f"lease:{second.pk}")
    confirm_extension(Lease.objects.get(pk=lease.pk), later, now=world.now)
    assert [one.check for one in run_checks(world.now)] == ["homes"]


def test_of_two_who_wait_with_the_same_home_one_is_offered_something(world: World) -> None:
    taken = book(world, flavor=a_pair(world))
    first = join(world, with_home=True, hours=6)
    world.now += timedelta(seconds=1)
    second = join(world, with_home=True, hours=6, deadline=12)
    third = join(world, with_home=True, hours=6, deadline=13)
    end(world, taken)
    now, later = offered(first), offered(third)
    assert now is not None
    assert later is not None
    assert (later.starts_at, offered(second)) == (now.ends_at, None)
    assert claim_offer(actor=world.actor(world.ada), entry_id=first.pk, now=world.now).with_home
    world.tick()
    assert offered(second) is None


def test_whoever_books_with_it_before_the_tick_is_told_that_the_line_comes_first(world: World) -> None:
    taken = [book(world), book(world)]
    entry = join(world, with_home=True, hours=6)
    world.tick()
    for lease in taken:
        end_lease(actor=world.actor(lease.owner), lease_id=lease.pk, now=world.now)
    with pytest.raises(InvalidRequest, match="held for you"):
        book(world, world.ada, with_home=True, start=1, hours=6)
    assert Lease.objects.filter(owner=world.ada, with_home=True).exclude(state="offered").count() == 0
    world.tick()
    assert offered(entry) is not None
    assert claim_offer(actor=world.actor(world.ada), entry_id=entry.pk, now=world.now).with_home


def test_who_waits_is_looked_at_again_when_something_came_free_and_then_no_more() -> None:
    world, key = a_world(gpus=1)
    first, other = world.model, GpuModel.objects.create(
        slug="b", name="B", memory_mib=64, vendor_device=world.model.vendor_device
    )  # fmt: skip
    flavor = Flavor.objects.create(slug="b", name="B", model=other)
    world.price(flavor)
    host = world.enrol("hv2")
    world.model = other
    world.admit(host, 1)
    world.model = first
    give_pool(host, "studio", key)
    book(world)
    book(world, flavor=flavor)
    entries = [join(world, with_home=True, hours=8), join(world, with_home=True, hours=8, flavor=flavor)]
    third = world.enrol("hv3")
    world.admit(third, 1)
    end(world, book(world, start=1, hours=1))
    for _tick in range(4):
        world.tick(after=timedelta(seconds=10))
    for entry in entries:
        entry.refresh_from_db()
        assert entry.kept_from is not None
        assert not entry.fresh
    assert not Block.objects.filter(frees_extras=True).exists()
    assert run_checks(world.now) == []


def test_it_is_extended_until_somebody_else_has_its_devices_at_most(world: World) -> None:
    tablet = UsbDevice.objects.create(host=world.host.row, usb_id="056a:0374", port="1-2", name="Tablet")
    lease = book(world, world.ada, start=1, hours=2, usb=[tablet.pk])
    following = book(world, start=6, hours=2, usb=[tablet.pk])
    limit = extension_limit(lease, now=world.now)
    turnaround = timedelta(seconds=world.model.turnaround_seconds)
    lead = timedelta(seconds=world.model.lead_seconds)
    assert (limit.until, limit.devices, limit.home) == (following.starts_at - lead - turnaround, True, False)
    extend: dict[str, Any] = {"actor": world.actor(world.ada), "lease_id": lease.pk, "now": world.now}
    with pytest.raises(NothingFree, match="a device of it is somebody else's"):
        change_end(**extend, ends_at=limit.until + timedelta(minutes=1))
    assert change_end(**extend, ends_at=limit.until).ends_at == limit.until
