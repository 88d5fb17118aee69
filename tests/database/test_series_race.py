"""Two people repeat bookings on the last GPU at the same instant: never is a series booked in part."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, time, timedelta

import pytest
from django.db import connection

from leasing.booking import request_lease
from leasing.ending import end_lease, end_series
from leasing.errors import DomainError
from leasing.fsck import run_checks
from leasing.models import Hold, Lease, Person, Series, Tenant
from leasing.recurrence import Pattern
from leasing.series import DatesLost, book_series
from leasing.series_plan import preview_series
from tests.world import World

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = timedelta(hours=1)
RACES = 6
CLIENTS, ACTS = 8, 3
DAILY = Pattern(
    weekdays=frozenset(range(1, 8)),
    starts=time(9),
    ends=time(17),
    zone="UTC",
    first_on=date(2026, 3, 3),
    last_on=date(2026, 3, 10),
)
LATER = replace(DAILY, first_on=date(2026, 3, 8), last_on=date(2026, 3, 15))
SHARED = {date(2026, 3, 8), date(2026, 3, 9), date(2026, 3, 10)}

Outcome = Series | DomainError


@pytest.mark.timeout(240)
def test_one_wins_whole_and_the_other_gets_nothing_or_all_but_what_it_named() -> None:
    """Both previewed when everything was free; of the dates that both want, each has all or none."""
    world = World(gpus=1)
    sides = [(world.ada, world.studio, DAILY), (world.bob, world.research, LATER)]
    with ThreadPoolExecutor(2) as pool:
        for race in range(RACES):
            barrier = threading.Barrier(2)
            first, second = [pool.submit(book_at, barrier, world, *side) for side in sides]
            results = [first.result(), second.result()]
            won = [result for result in results if isinstance(result, Series)]
            (lost,) = [result for result in results if isinstance(result, DomainError)]
            assert [series.leases.count() for series in won] == [8]
            assert isinstance(lost, DatesLost)
            assert set(lost.days) == SHARED
            assert Lease.objects.filter(series=None).count() == 0
            side = next(side for side in sides if side[0] != won[0].owner)
            again = book(world, *side, without=frozenset(lost.days))
            assert isinstance(again, Series), (race, again)
            assert again.leases.count() == 5
            assert Hold.objects.count() == 13
            for series in (won[0], again):
                end_series(actor=world.actor(series.owner), series_id=series.pk, now=world.now)
        close_all(pool, 2)
    world.tick()
    assert run_checks(world.now) == []


@pytest.mark.timeout(240)
def test_many_who_repeat_and_cancel_on_several_hosts_find_every_rule_kept() -> None:
    """Long series take many blocks, in any order: nobody is shown a deadlock."""
    world = World(gpus=1, concurrent_gpus=9)
    for number in range(2, 5):
        world.admit(world.enrol(f"hv{number}"), 1)
    sides = [(world.ada, world.studio), (world.bob, world.research)]
    start = threading.Barrier(CLIENTS)
    with ThreadPoolExecutor(CLIENTS) as pool:
        jobs = [pool.submit(hammer, world, *sides[n % 2], n, start) for n in range(CLIENTS)]
        booked = sum(job.result() for job in jobs)
    assert booked > 0
    world.tick()
    assert run_checks(world.now) == []


def hammer(world: World, who: Person, tenant: Tenant, seed: int, start: threading.Barrier) -> int:
    """Any act that fails in another way than with a refusal in words fails the test."""
    dice = random.Random(seed)
    actor, booked = world.actor(who), 0
    start.wait()
    try:
        for _act in range(ACTS):
            begin = dice.randrange(24)
            pattern = replace(DAILY, starts=time(begin), ends=time((begin + dice.randint(1, 8)) % 24))
            single = world.now + dice.randint(24, 200) * HOUR
            try:
                plan = preview_series(
                    actor=actor, tenant=tenant, flavor=world.flavor, pattern=pattern, now=world.now
                )
                without = frozenset(one.occurrence.day for one in plan.lost)
                request_lease(
                    actor=actor, tenant=tenant, flavor=world.flavor, image=world.image,
                    starts_at=single, ends_at=single + HOUR, now=world.now,
                )  # fmt: skip
                found = book(world, who, tenant, pattern, without=without)
                booked += isinstance(found, Series)
                if isinstance(found, Series) and dice.random() < 0.4:
                    end_series(actor=actor, series_id=found.pk, now=world.now)
            except DomainError:
                continue
            mine = Lease.objects.filter(owner=who, state="scheduled").order_by("?").first()
            if mine is not None and dice.random() < 0.5:
                cancel(world, mine)
    finally:
        connection.close()
    return booked


def cancel(world: World, lease: Lease) -> None:
    try:
        end_lease(actor=world.actor(lease.owner), lease_id=lease.pk, now=world.now)
    except DomainError:
        return


def book_at(
    barrier: threading.Barrier, world: World, who: Person, tenant: Tenant, pattern: Pattern
) -> Outcome:
    connection.ensure_connection()
    barrier.wait()
    return book(world, who, tenant, pattern)


def book(
    world: World, who: Person, tenant: Tenant, pattern: Pattern, *, without: frozenset[date] = frozenset()
) -> Outcome:
    try:
        return book_series(
            actor=world.actor(who),
            tenant=tenant,
            flavor=world.flavor,
            image=world.image,
            pattern=pattern,
            without=without,
            now=world.now,
        )
    except DomainError as error:
        return error


def close_all(pool: ThreadPoolExecutor, count: int) -> None:
    """Each thread has kept its connection, as servers do."""
    both = threading.Barrier(count)
    for closing in [pool.submit(close_after, both) for _ in range(count)]:
        closing.result()


def close_after(barrier: threading.Barrier) -> None:
    barrier.wait()
    connection.close()
