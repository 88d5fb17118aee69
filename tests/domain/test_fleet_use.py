"""What became of the fleet's time: booked, used, out of service, idle; all of it, and no second twice."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hosts.models import Gpu, GpuModel
from leasing import fleet
from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.fleet_use import ModelUse, fleet_use
from tests.world import World

pytestmark = pytest.mark.django_db
HOUR = 3600


@pytest.fixture
def world() -> World:
    return World(gpus=2)


def use_of(world: World, *, hours: float, since: float = 0) -> ModelUse:
    """Of the only model, from the beginning, or some hours after it, on."""
    start = world.host.row.found_cards.earliest("first_seen_at").first_seen_at
    (found,) = fleet_use(
        start + timedelta(hours=since), start + timedelta(hours=hours), now=start + timedelta(days=9)
    )
    return found


def test_all_time_is_told_once(world: World) -> None:
    lease = request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=None, ends_at=world.now + timedelta(hours=3), now=world.now,
    )  # fmt: skip
    world.now += timedelta(minutes=30)
    world.host.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    world.start(lease)
    world.now += timedelta(hours=1)
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    found = use_of(world, hours=4)
    assert (found.slug, found.gpus, found.there) == ("a6000", 2, 8 * HOUR)
    assert (found.booked, found.used, found.unused) == (1.5 * HOUR, HOUR, HOUR / 2)
    assert (found.repair, found.idle) == (0, 6.5 * HOUR)
    later = use_of(world, hours=4, since=1)
    assert (later.there, later.booked, later.used) == (6 * HOUR, HOUR / 2, HOUR / 2)


def test_what_is_only_asked_for_or_was_cancelled_was_not_booked(world: World) -> None:
    lease = request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=world.now + timedelta(hours=1), ends_at=world.now + timedelta(hours=3), now=world.now,
    )  # fmt: skip
    assert use_of(world, hours=4).booked == 2 * HOUR
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    assert use_of(world, hours=4).booked == 0


def test_a_gpu_is_out_of_service_until_somebody_wants_it_back(world: World) -> None:
    operator = Actor.of_person(world.operator)
    gpu, other = world.gpus
    world.now += timedelta(hours=1)
    fleet.withdraw_gpu(actor=operator, gpu_id=gpu.pk, reason="fan", now=world.now)
    world.now += timedelta(hours=1)
    fleet.readmit_gpu(actor=operator, gpu_id=gpu.pk, now=world.now)
    world.now += timedelta(hours=1)
    fleet.withdraw_gpu(actor=operator, gpu_id=other.pk, reason="fan", now=world.now)
    found = use_of(world, hours=4)
    assert (found.repair, found.idle) == (2 * HOUR, 6 * HOUR)
    assert use_of(world, hours=1).repair == 0
    assert use_of(world, hours=6).repair == 4 * HOUR


def test_a_gpu_counts_since_it_came_into_service(world: World) -> None:
    model = GpuModel.objects.create(slug="h100", name="H100", memory_mib=64, vendor_device="10de:2330")
    gpu = Gpu.objects.create(
        host=world.host.row, model=model, address="0000:0a:00.0", state_since=world.now, share_vcpus=1,
        share_memory_mib=1, share_disk_gib=1,
    )  # fmt: skip
    record(action="gpu.admit", actor=SYSTEM, subject=f"gpu:{gpu.pk}", now=world.now + timedelta(hours=3))
    start, day = world.now, timedelta(days=1)
    found = {one.slug: one.there for one in fleet_use(start, start + timedelta(hours=4), now=start + day)}
    assert found == {"a6000": 8 * HOUR, "h100": HOUR}
    # What is still to come has not passed.
    ahead = fleet_use(start, start + timedelta(hours=4), now=start + timedelta(hours=2))
    assert {one.slug: one.there for one in ahead} == {"a6000": 4 * HOUR}


def test_what_is_out_of_service_twice_counts_once(world: World) -> None:
    """A card that had vanished was then withdrawn."""
    start, subject = world.now, f"gpu:{world.gpus[0].pk}"
    for hours, action in ((1, "gpu.vanish"), (2, "gpu.withdraw"), (3, "gpu.readmit")):
        record(action=action, actor=SYSTEM, subject=subject, now=start + timedelta(hours=hours))
    assert use_of(world, hours=4).repair == 2 * HOUR
