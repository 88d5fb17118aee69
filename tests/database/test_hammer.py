"""Many people at once on a small fleet: nothing is promised twice, no limit passed, no deadlock shown."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from hosts.models import Gpu
from leasing.actors import SYSTEM, Actor
from leasing.audit.verifier import verify_log
from leasing.booking import request_lease
from leasing.changing import change_end, change_window
from leasing.ending import end_lease
from leasing.errors import DomainError
from leasing.fsck import run_checks
from leasing.maintenance.plan import Unmovable
from leasing.maintenance.service import drain, lift_closure, open_closures, preview_drain
from leasing.models import Flavor, Lease, Person, Tenant
from leasing.quotas import set_quota
from tests.world import World

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = timedelta(hours=1)
ACTS = 8


@pytest.mark.timeout(240)
def test_many_at_once_find_every_rule_kept() -> None:
    clients = 64 if connection.vendor == "postgresql" else 8
    world = World(gpus=4, concurrent_gpus=3)
    second = world.enrol("hv2")
    world.admit(second, 4)
    pair = Flavor.objects.create(slug="pair", name="Pair", model=world.model, gpu_count=2)
    world.price(pair)
    for tenant in (world.studio, world.research):
        set_quota(actor=SYSTEM, tenant=tenant, kind="gpu-hours", value=Decimal(60), now=world.now)
    told: Counter[str] = Counter()
    start = threading.Barrier(clients)
    sides = [(world.ada, world.studio), (world.bob, world.research)]
    with ThreadPoolExecutor(clients) as pool:
        jobs = [
            pool.submit(hammer, world, *sides[number % 2], [world.flavor, pair], number, start, told)
            for number in range(clients)
        ]
        for job in jobs:
            job.result()
    assert told["booked"] > 10
    assert told["changed"] > 0
    assert told["drained"] > 0
    assert told["lifted"] > 0
    assert set(told) <= {"booked", "changed", "ended", "drained", "lifted", "refused"}
    world.tick()
    assert run_checks(world.now) == []
    assert verify_log().problems == []


def hammer(
    world: World,
    person: Person,
    tenant: Tenant,
    flavors: list[Flavor],
    seed: int,
    start: threading.Barrier,
    told: Counter[str],
) -> None:
    """Any act that fails in another way than with a refusal in words fails the test."""
    dice = random.Random(seed)
    actor = world.actor(person)
    start.wait()
    try:
        for _act in range(ACTS):
            try:
                told[act(world, dice, actor, tenant, flavors)] += 1
            except DomainError:
                told["refused"] += 1
    finally:
        connection.close()


def act(world: World, dice: random.Random, actor: Actor, tenant: Tenant, flavors: list[Flavor]) -> str:
    starts_at = world.now + dice.randint(1, 12) * HOUR
    length = dice.randint(1, 4) * HOUR
    mine = Lease.objects.filter(tenant=tenant, state__in=["scheduled", "requested"]).order_by("?").first()
    kind = dice.choice(["book"] * 5 + ["end", "extend", "move", "drain"])
    if kind == "book" or mine is None:
        request_lease(
            actor=actor,
            tenant=tenant,
            flavor=dice.choice(flavors),
            image=world.image,
            starts_at=starts_at,
            ends_at=starts_at + length,
            now=world.now,
        )
        return "booked"
    if kind == "end":
        end_lease(actor=actor, lease_id=mine.pk, now=world.now)
        return "ended"
    if kind == "drain":
        return maintain(world, dice)
    if kind == "extend":
        change_end(actor=actor, lease_id=mine.pk, ends_at=mine.ends_at + HOUR, now=world.now)
    else:
        window = {"starts_at": starts_at, "ends_at": starts_at + length}
        change_window(actor=actor, lease_id=mine.pk, now=world.now, **window)
    return "changed"


def maintain(world: World, dice: random.Random) -> str:
    """Close a host or a GPU from a time on, or lift a closure."""
    closed = open_closures(now=world.now).order_by("?").first()
    if closed is not None and dice.random() < 0.6:
        lift_closure(actor=SYSTEM, closure_id=closed.pk, now=world.now)
        return "lifted"
    gpu = dice.choice(list(Gpu.objects.select_related("host")))
    starts_at = world.now + dice.randint(0, 8) * HOUR
    wanted: dict[str, Any] = {
        "actor": SYSTEM,
        "what": dice.choice([gpu, gpu.host]),
        "starts_at": starts_at,
        "ends_at": dice.choice([None, starts_at + dice.randint(1, 6) * HOUR]),
        "unmovable": dice.choice(list(Unmovable)),
        "now": world.now,
    }
    drain(seen=preview_drain(**wanted).seen, reason="dust", **wanted)
    return "drained"
