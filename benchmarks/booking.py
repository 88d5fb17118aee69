"""Searches, near misses, bookings and extension limits in large fleets, through the services that pages call.

    python -m benchmarks.booking [--gpus N] [--fleet FILL] [--quick] [--json]

It starts a private PostgreSQL that keeps what it commits, and builds a fleet in it for every cell.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from tools.servers import postgres_server  # noqa: E402 - also a plain script

HOURS = (1, 2, 4, 8, 12, 24, 48, 96, 168)
FILLS = {"empty": 0.0, "half full": 0.5, "95 % full": 0.95}
HOLDS_PER_GPU = 100
PEOPLE = 5000
CLIENTS = 8
TRIES = 5
# PostgreSQL plans a statement of a new connection ten times before it keeps its plan.
WARM_UP = 15
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "2GB",
    "max_wal_size": "4GB",
}


@dataclass(frozen=True)
class Plan:
    """How large, and how often."""

    sizes: tuple[int, ...]
    searches: int
    bookings: int


QUICK = Plan(sizes=(80,), searches=20, bookings=20)
FULL = Plan(sizes=(104, 1000, 10_000), searches=300, bookings=300)


def main() -> int:
    options = _options()
    plan = QUICK if options.quick else FULL
    if options.gpus:
        plan = replace(plan, sizes=tuple(options.gpus))
    cells = []
    for size in plan.sizes:
        for fill, busy in [(fill, FILLS[fill]) for fill in options.fleet]:
            with postgres_server(**DURABLE) as dsn:
                # A process of its own: Django knows one database for as long as it lives.
                cell = _apart(_measure, dsn, plan, size, busy)
            cells.append({"gpus": size, "fleet": fill, **cell})
            if not options.json:
                print(json.dumps(cells[-1]), flush=True)
    print(json.dumps({"machine": _machine(), "cells": cells}))
    return 0


def _measure(dsn: str, plan: Plan, size: int, busy: float) -> dict[str, Any]:
    _django(dsn)
    from django.core.management import call_command
    from django.db import connection

    from benchmarks.big_fleet import build

    call_command("migrate", verbosity=0)
    began = time.monotonic()
    holds = round(size * HOLDS_PER_GPU * bool(busy))
    fleet = build(gpus=size, holds=holds, busy=busy or 1.0, people=PEOPLE)
    figures: dict[str, Any] = {"build_seconds": round(time.monotonic() - began)}
    dice = random.Random(7)
    for width, flavor in fleet.flavors.items():
        figures[f"earliest_{width}_ms"] = _spread(plan.searches, partial(_search, flavor, dice))
        if busy:
            figures[f"near_misses_{width}_ms"] = _spread(plan.searches, partial(_near, fleet, flavor, dice))
    figures["week_ms"] = _spread(max(5, plan.searches // 5), partial(_week, fleet, dice))
    figures["booking_ms"] = _spread(plan.bookings, partial(_book, fleet, dice))
    figures["extension_limit_ms"] = _spread(plan.searches, _limit_of(fleet, dice))
    figures["month_ms"] = _spread(max(5, plan.searches // 15), partial(_month, fleet, dice))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")  # as autovacuum does within a minute
    figures["bookings_per_second"] = _hammer(dsn, plan)
    return figures


def _search(flavor: Any, dice: random.Random) -> Callable[[], object]:
    from benchmarks.big_fleet import NOW
    from leasing.slots import find_start

    duration, earliest = _asked(dice)
    return lambda: find_start(flavor, duration, earliest=earliest, now=NOW)


def _near(fleet: Any, flavor: Any, dice: random.Random) -> Callable[[], object]:
    """Of a window that is not free: what stands in the way, and what nearly fits."""
    from benchmarks.big_fleet import NOW
    from leasing.slots import is_free, near_misses

    duration, earliest = _asked(dice)
    while is_free(flavor, earliest or NOW, (earliest or NOW) + duration, now=NOW):
        duration, earliest = _asked(dice)
    person, tenant = _somebody(fleet, dice)
    return lambda: near_misses(flavor, duration, person=person, tenant=tenant, earliest=earliest, now=NOW)


def _asked(dice: random.Random) -> tuple[timedelta, datetime | None]:
    """For how long, and from when on; None: now."""
    from benchmarks.big_fleet import DAYS, NOW

    duration = timedelta(hours=dice.choice(HOURS))
    return duration, NOW + timedelta(days=dice.uniform(0, DAYS * 0.6)) if dice.random() < 0.5 else None


def _week(fleet: Any, dice: random.Random) -> Callable[[], object]:
    """When one GPU could be had in a week, as the timeline of the book page shows it."""
    from benchmarks.big_fleet import NOW
    from leasing.slots import bookable

    since = NOW + timedelta(days=dice.randrange(60))
    return lambda: bookable(fleet.flavors[1], since, since + timedelta(days=7), now=NOW)


def _book(fleet: Any, dice: random.Random) -> Callable[[], object]:
    """The slot is looked for before the clock starts."""
    from benchmarks.big_fleet import DAYS, NOW
    from leasing.actors import Actor
    from leasing.booking import request_lease
    from leasing.slots import find_start

    flavor = fleet.flavors[dice.choice((1, 1, 1, 4, 8))]
    duration = timedelta(hours=dice.choice(HOURS[:5]))
    earliest = NOW + timedelta(days=dice.uniform(0, DAYS * 0.9))
    start = find_start(flavor, duration, earliest=earliest, now=NOW)
    person, tenant = _somebody(fleet, dice)
    return lambda: (
        start
        and request_lease(
            actor=Actor.of_person(person),
            tenant=tenant,
            flavor=flavor,
            image=fleet.image,
            starts_at=start,
            ends_at=start + duration,
            now=NOW,
        )
    )


def _somebody(fleet: Any, dice: random.Random) -> tuple[Any, Any]:
    """A person, and the tenant that they are a member of."""
    number = dice.randrange(len(fleet.people))
    return fleet.people[number], fleet.tenants[number % len(fleet.tenants)]


def _limit_of(fleet: Any, dice: random.Random) -> Callable[[], Callable[[], object]]:
    from benchmarks.big_fleet import NOW
    from leasing.latest_end import extension_limit
    from leasing.models import Lease

    leases = list(Lease.objects.select_related("flavor__model").order_by("starts_at")[:2000])

    def prepare() -> Callable[[], object]:
        lease = dice.choice(leases)
        return lambda: extension_limit(lease, now=NOW)

    return prepare


def _month(fleet: Any, dice: random.Random) -> Callable[[], object]:
    """A month of the pool by days, and GPU by GPU of the first hosts, as the calendar page shows it."""
    from benchmarks.big_fleet import NOW
    from leasing.availability.pool import Pool, read_hosts, read_overview

    person, flavor = dice.choice(fleet.people), fleet.flavors[dice.choice((1, 4, 8))]
    pool = Pool(fleet.model, flavor)
    first = NOW.replace(hour=0) + timedelta(days=dice.randrange(60))
    edges = [first + timedelta(days=day) for day in range(32)]
    return lambda: (
        read_overview(pool, edges, now=NOW),
        read_hosts(person, pool, edges[0], edges[-1], offset=0, limit=5, now=NOW),
    )


def _hammer(dsn: str, plan: Plan) -> float:
    """Eight clients search and book as fast as they can, of all tenants; only what is booked is counted.

    They are threads of as many processes as there are cores, as the portal serves its visitors.
    """
    processes = min(CLIENTS, os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        shares = [(dsn, range(first, CLIENTS, processes), plan.bookings) for first in range(processes)]
        began = [client for clients in pool.starmap(_clients, shares) for client in clients]
    booked = sum(count for count, _start, _end in began)
    return round(booked / (max(end for _, _, end in began) - min(start for _, start, _ in began)))


def _clients(dsn: str, numbers: range, bookings: int) -> list[tuple[int, float, float]]:
    """Clients of one process."""
    _django(dsn)
    from django.db.models.functions import Length

    from benchmarks.big_fleet import Fleet
    from leasing.models import Flavor, Image, Person, Tenant

    flavors = {flavor.gpu_count: flavor for flavor in Flavor.objects.select_related("model")}
    fleet = Fleet(
        flavors[1].model,
        flavors,
        Image.objects.get(),
        # As they were made: their names end in numbers.
        list(Tenant.objects.order_by(Length("slug"), "slug")),
        list(Person.objects.order_by(Length("username"), "username")),
    )
    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(partial(_client, fleet, bookings), numbers))


def _client(fleet: Any, bookings: int, number: int) -> tuple[int, float, float]:
    """How many it has booked, and from when to when; every thread has a connection of its own."""
    prepare = partial(_book, fleet, random.Random(number))
    for _ in range(WARM_UP):
        _insist(prepare)
    began = time.time()
    booked = sum(_insist(prepare) for _ in range(bookings))
    return booked, began, time.time()


def _insist(prepare: Callable[[], Callable[[], object]]) -> bool:
    """Search and book; whoever finds the slot taken by then searches again."""
    from leasing.errors import NothingFree

    for _ in range(TRIES):
        try:
            return prepare()() is not None
        except NothingFree:
            continue
    return False


def _spread(count: int, prepare: Callable[[], Callable[[], object]]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds; the first few warm the connection up."""
    from leasing.errors import NothingFree

    seconds = []
    for number in range(count + 5):
        work = prepare()
        began = time.perf_counter()
        try:
            work()
        except NothingFree:
            continue
        if number >= 5:
            seconds.append(time.perf_counter() - began)
    return {
        "median": round(median(seconds) * 1000, 2),
        "p95": round(quantiles(seconds, n=20)[-1] * 1000, 2),
    }


def _django(dsn: str) -> None:
    os.environ["LEASEHOLD_DATABASE"] = dsn
    os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"
    import django

    django.setup()


def _apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_report, args=(queue, work, arguments))
    process.start()
    found: dict[str, Any] = queue.get()
    process.join()
    if "error" in found:
        raise RuntimeError(found["error"])
    return found


def _report(queue: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    try:
        queue.put(work(*arguments))
    except Exception as error:
        queue.put({"error": repr(error)})
        raise


def _machine() -> str:
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, load {load}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="*", help="only fleets of these sizes")
    parser.add_argument(
        "--fleet", choices=FILLS, nargs="*", default=list(FILLS), help="only fleets like this"
    )
    parser.add_argument("--quick", action="store_true", help="one small fleet, to see that it works")
    parser.add_argument("--json", action="store_true", help="only the figures, as one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
