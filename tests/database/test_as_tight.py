"""Nobody waits for a host that somebody else is booking if another fits as well."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection, transaction

from leasing.booking import request_lease
from leasing.fsck import run_checks
from leasing.models import Person, Tenant
from tests.world import World

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer"),
]
HOUR = timedelta(hours=1)


def book(world: World, person: Person, tenant: Tenant) -> UUID:
    """The host that it went to."""
    starts_at = world.now + HOUR
    lease = request_lease(
        actor=world.actor(person),
        tenant=tenant,
        flavor=world.flavor,
        image=world.image,
        starts_at=starts_at,
        ends_at=starts_at + HOUR,
        now=world.now,
    )
    (hold,) = lease.holds.select_related("gpu")
    return hold.gpu.host_id


def book_apart(world: World) -> UUID:
    try:
        return book(world, world.bob, world.research)
    finally:
        connection.close()


def waiting_for_locks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return int(cursor.fetchone()[0])


def test_the_second_of_two_goes_to_the_other_of_two_equal_hosts() -> None:
    world = World(gpus=4)
    world.admit(world.enrol("hv2"), 4)
    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        first = book(world, world.ada, world.studio)
        second = pool.submit(book_apart, world).result(timeout=50)
        assert second != first
    assert run_checks(world.now) == []


def test_the_second_of_two_waits_rather_than_to_break_a_larger_host() -> None:
    world = World(gpus=4)
    world.admit(world.enrol("hv2"), 5)
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            first = book(world, world.ada, world.studio)
            second = pool.submit(book_apart, world)
            while waiting_for_locks() == 0:
                assert not second.done()
        assert second.result() == first
    assert run_checks(world.now) == []
