"""Who waits for whom: nobody for each other, and nobody for the sealer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction

from hosts.protocol import messages as m
from leasing.actors import SYSTEM
from leasing.audit.log import record
from leasing.audit.sealer import seal
from leasing.audit.verifier import verify_log
from leasing.ending import end_lease
from leasing.locking import locked
from leasing.models import Lease, UnsealedEntry
from leasing.reports import receive_report
from tests.domain.test_first_lease import book
from tests.world import START, World

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_end_and_a_report_about_the_same_lease_do_not_deadlock() -> None:
    world = World(gpus=1)
    lease = book(world)
    world.tick()
    order = world.command(lease, "provision")
    envelope = world.host.envelope(m.MachineRunning(lease_id=lease.pk), at=world.now, command=order)
    begun = threading.Event()

    def report() -> None:
        try:
            begun.set()
            receive_report(envelope, now=world.now)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            locked(Lease.objects.all()).get(pk=lease.pk)
            reporting = pool.submit(report)
            begun.wait(10)
            end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
        reporting.result(30)
    lease.refresh_from_db()
    assert (lease.state, lease.outcome) == ("releasing", "cancelled")


def test_sealing_loses_nothing_that_is_recorded_meanwhile() -> None:
    stop = threading.Event()

    def write(writer: int) -> None:
        try:
            for number in range(100):
                with transaction.atomic():
                    record(action="test", actor=SYSTEM, subject=f"test:{writer}", now=START, number=number)
        finally:
            connection.close()

    def seal_on() -> None:
        try:
            while not stop.is_set():
                seal(START)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        sealers = [pool.submit(seal_on) for _ in range(2)]
        for writing in [pool.submit(write, writer) for writer in range(2)]:
            writing.result(60)
        stop.set()
        for sealing in sealers:
            sealing.result(60)
    seal(START)
    verdict = verify_log()
    assert (verdict.problems, verdict.sealed, UnsealedEntry.objects.count()) == ([], 200, 0)
