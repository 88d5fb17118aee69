"""A command that the database gave up is tried again, from its beginning."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection

from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.fsck import run_checks
from leasing.locking import locked
from leasing.models import Block, Lease, Tenant
from leasing.states.lease import LeaseState
from leasing.transactions import atomically
from tests.world import World

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = timedelta(hours=1)


def test_two_that_lock_the_same_rows_crosswise_both_end_well() -> None:
    world = World(gpus=2)
    both_hold_one = threading.Barrier(2)
    tries = {"there": 0, "back": 0}

    @atomically
    def cross(name: str, first: Tenant, second: Tenant) -> str:
        tries[name] += 1
        locked(Tenant.objects.all()).get(pk=first.pk)
        if tries[name] == 1 and connection.features.has_select_for_update:
            both_hold_one.wait(timeout=30)
        locked(Tenant.objects.all()).get(pk=second.pk)
        return name

    def run(name: str, first: Tenant, second: Tenant) -> str:
        try:
            return cross(name, first, second)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        there = pool.submit(run, "there", world.studio, world.research)
        back = pool.submit(run, "back", world.research, world.studio)
        assert (there.result(), back.result()) == ("there", "back")
    deadlocks = 1 if connection.features.has_select_for_update else 0
    assert sum(tries.values()) == 2 + deadlocks


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no row locks")
def test_who_ends_a_lease_does_not_hear_of_a_deadlock() -> None:
    """A rival holds the lease's block and wants the lease, whose end wants the block."""
    world = World(gpus=1)
    starts_at = world.now + HOUR
    lease = request_lease(
        actor=world.actor(world.ada),
        tenant=world.studio,
        flavor=world.flavor,
        image=world.image,
        starts_at=starts_at,
        ends_at=starts_at + HOUR,
        now=world.now,
    )

    def end() -> str:
        try:
            return end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now).state
        finally:
            connection.close()

    @atomically
    def rival() -> None:
        list(locked(Block.objects.all()))
        if not ending:
            ending.append(pool.submit(end))
            while waiting_for_locks() == 0:
                assert not ending[0].done()
        list(locked(Lease.objects.filter(pk=lease.pk)))

    ending: list[Future[str]] = []
    with ThreadPoolExecutor(1) as pool:
        rival()
        assert ending[0].result() == LeaseState.ENDED
    assert run_checks(world.now) == []


def waiting_for_locks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return int(cursor.fetchone()[0])
