"""Two people want the last GPU at the same instant: exactly one gets it, the other is told clearly."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
import pytest
from django.db import connection

from hosts.protocol.messages import UsbDevice
from leasing import devices
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.errors import DomainError, NothingFree
from leasing.fsck import run_checks
from leasing.models import Hold, Lease, Person, Tenant
from tests.world import World, inventory

pytestmark = pytest.mark.django_db(transaction=True)
RACES = 200


@pytest.mark.timeout(120)
def test_of_two_people_who_book_the_last_gpu_at_once_exactly_one_wins() -> None:
    world = World(gpus=1)
    sides = [(world.ada, world.studio), (world.bob, world.research)]
    with ThreadPoolExecutor(2) as pool:
        for _race in range(RACES):
            barrier = threading.Barrier(2)
            runs = [pool.submit(book_at, barrier, world, *side) for side in sides]
            results = [run.result() for run in runs]
            leases = [result for result in results if isinstance(result, Lease)]
            refusals = [result for result in results if isinstance(result, DomainError)]
            assert len(leases) == 1
            assert isinstance(refusals[0], NothingFree)
            assert "Studio A6000" in str(refusals[0].message)
            assert refusals[0].hint
            assert Hold.objects.count() == 1
            end_lease(actor=world.actor(leases[0].owner), lease_id=leases[0].pk, now=world.now)
        both = threading.Barrier(2)
        for closing in [pool.submit(close_after, both) for _ in sides]:
            closing.result()
    assert Lease.objects.filter(outcome="cancelled").count() == RACES
    world.tick()
    assert run_checks(world.now) == []


@pytest.mark.timeout(120)
def test_of_two_people_who_choose_the_same_device_at_once_exactly_one_has_it() -> None:
    world = World(gpus=2)
    seen = inventory(*(gpu.address for gpu in world.gpus))
    tablet = UsbDevice(usb_id="056a:0357", port="1-2", name="Tablet")
    world.host.say(msgspec.structs.replace(seen, usb=(tablet,)), at=world.now)
    sides = [(world.ada, world.studio), (world.bob, world.research)]
    device = devices.offered_devices().get().pk
    with ThreadPoolExecutor(2) as pool:
        for _race in range(RACES // 10):
            barrier = threading.Barrier(2)
            runs = [pool.submit(book_at, barrier, world, *side, usb=[device]) for side in sides]
            results = [run.result() for run in runs]
            (lease,) = (result for result in results if isinstance(result, Lease))
            (refusal,) = (result for result in results if isinstance(result, DomainError))
            assert str(refusal.message) == "Tablet is somebody else's then."
            end_lease(actor=world.actor(lease.owner), lease_id=lease.pk, now=world.now)
        both = threading.Barrier(2)
        for closing in [pool.submit(close_after, both) for _ in sides]:
            closing.result()
    assert run_checks(world.now) == []


def book_at(
    barrier: threading.Barrier, world: World, who: Person, tenant: Tenant, *, usb: Collection[int] = ()
) -> Lease | DomainError:
    connection.ensure_connection()
    barrier.wait()
    return outcome(
        lambda: request_lease(
            actor=world.actor(who),
            tenant=tenant,
            flavor=world.flavor,
            image=world.image,
            starts_at=world.now + timedelta(hours=1),
            ends_at=world.now + timedelta(hours=2),
            usb=usb,
            now=world.now,
        )
    )


def outcome(book: Callable[[], Lease]) -> Lease | DomainError:
    try:
        return book()
    except DomainError as error:
        return error


def close_after(barrier: threading.Barrier) -> None:
    """Each thread has kept its connection, as servers do."""
    barrier.wait()
    connection.close()
