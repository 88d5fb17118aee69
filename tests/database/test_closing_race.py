"""Months of two teams are closed by many at once, and some give up half-way: no gap, and nothing twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction

from leasing.actors import SYSTEM
from leasing.billing.closing import close_month
from leasing.billing.issuing import take_number
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.fsck import run_checks
from leasing.models import Invoice, MonthClose, Tenant
from tests.domain.billing_office import Office

pytestmark = pytest.mark.django_db(transaction=True)
MONTHS = ("2026-03", "2026-04", "2026-05")
CLOSED_AT = datetime(2026, 6, 2, tzinfo=UTC)


class GaveUp(Exception):
    pass


def use_something_each_month(office: Office) -> None:
    for begin in (datetime(2026, month, 10, 9, tzinfo=UTC) for month in (3, 4, 5)):
        office.now = begin
        office.hear()
        leases = [
            request_lease(
                actor=office.actor(who),
                tenant=tenant,
                flavor=office.flavor,
                image=office.image,
                starts_at=begin,
                ends_at=begin + timedelta(hours=4),
                now=begin,
            )
            for who, tenant in ((office.ada, office.studio), (office.bob, office.research))
        ]
        for lease in leases:
            office.start(lease)
        office.now += timedelta(hours=1)
        for lease in leases:
            end_lease(actor=office.actor(lease.owner), lease_id=lease.pk, now=office.now)
            office.finish(lease)
    office.now = CLOSED_AT
    office.hear()


def close_all(barrier: threading.Barrier, tenant: Tenant) -> None:
    barrier.wait()
    for month in MONTHS:
        close_month(actor=SYSTEM, tenant=tenant, name=month, now=CLOSED_AT)


def give_up(barrier: threading.Barrier) -> None:
    """Takes numbers, and is rolled back."""
    barrier.wait()
    for _ in MONTHS:
        with suppress(GaveUp), transaction.atomic():
            take_number(Invoice.Kind.INVOICE, now=CLOSED_AT)
            raise GaveUp


@pytest.mark.timeout(120)
def test_numbers_have_no_gap_whoever_closes_and_whoever_gives_up() -> None:
    office = Office()
    use_something_each_month(office)
    barrier = threading.Barrier(6)
    with ThreadPoolExecutor(6) as pool:
        tenants = [office.studio, office.research] * 2
        runs = [pool.submit(close_all, barrier, tenant) for tenant in tenants]
        runs += [pool.submit(give_up, barrier) for _ in range(2)]
        for run in runs:
            run.result()
        together = threading.Barrier(6)
        for closing in [pool.submit(close_after, together) for _ in range(6)]:
            closing.result()
    numbers = sorted(Invoice.objects.values_list("number", flat=True))
    assert numbers == [f"2026-{number:06d}" for number in range(1, 7)]
    assert MonthClose.objects.count() == 6
    problems = [
        one for one in run_checks(office.now) if one.check in ("invoices", "numbers", "bills", "usage")
    ]
    assert problems == []


def close_after(barrier: threading.Barrier) -> None:
    """Each thread has kept its connection, as servers do."""
    barrier.wait()
    connection.close()
