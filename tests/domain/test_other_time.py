"""Another time for what is booked: what is said of it is what becomes of it, and saying changes nothing."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from random import Random

import pytest
from django.db import transaction
from hypothesis import given
from hypothesis import strategies as st

from leasing.actors import SYSTEM
from leasing.audit.verifier import verify_log
from leasing.booking import request_lease
from leasing.changing import OutsideLimits, change_window
from leasing.errors import DomainError, InvalidRequest, NothingFree, WrongState
from leasing.fsck import run_checks
from leasing.models import Block, Hold, Lease, Person
from leasing.other_time import other_time
from leasing.quotas import set_quota
from tests.chosen import chosen, how_many
from tests.domain.test_devices import TABLET, Studio
from tests.domain.test_homes import a_world
from tests.world import World

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
# Always the same histories, unless LEASEHOLD_FLEETS asks for that many others.
CHOSEN = chosen(how_many(12))


def book(world: World, start: float, hours: float, who: Person | None = None, *, home: bool = False) -> Lease:
    who = who or world.ada
    return request_lease(
        actor=world.actor(who), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=world.now + start * HOUR, ends_at=world.now + (start + hours) * HOUR, with_home=home,
        now=world.now,
    )  # fmt: skip


def move(world: World, lease: Lease, starts_at: datetime, ends_at: datetime) -> Lease:
    return change_window(
        actor=world.actor(lease.owner), lease_id=lease.pk, starts_at=starts_at, ends_at=ends_at, now=world.now
    )


def works(world: World, lease: Lease, starts_at: datetime, ends_at: datetime) -> bool:
    """Whether it can be moved; it is not."""
    with suppress(NothingFree), transaction.atomic():
        move(world, lease, starts_at, ends_at)
        transaction.set_rollback(True)
        return True
    return False


def everything() -> list[list[tuple[object, ...]]]:
    return [list(model.objects.order_by("pk").values_list()) for model in (Lease, Hold, Block)]


@CHOSEN
@given(st.integers(0, 2**32))
def test_what_is_said_to_be_free_can_be_had_and_nothing_else(seed: int) -> None:
    dice = Random(seed)
    with transaction.atomic():
        world = World(gpus=2, concurrent_gpus=50)
        leases = []
        for _try in range(8):
            with suppress(NothingFree):
                leases.append(book(world, dice.randint(1, 16), dice.randint(1, 6)))
        for _question in range(6):
            lease, begin = dice.choice(leases), world.now + dice.randint(1, 18) * HOUR
            end = begin + dice.randint(1, 8) * HOUR
            before = everything()
            found = other_time(lease, begin, end, now=world.now)
            assert everything() == before
            assert (found.instead is None) == works(world, lease, begin, end)
            for slot in found.instead.later if found.instead else ():
                assert works(world, lease, slot.starts_at, slot.ends_at)
        transaction.set_rollback(True)


def test_its_own_home_is_not_in_its_way_and_another_workstations_is() -> None:
    world, _key = a_world(gpus=2)
    lease = book(world, 1, 4, home=True)
    found = other_time(lease, world.now + 2 * HOUR, world.now + 7 * HOUR, now=world.now)
    assert (found.instead, found.quote.total) == (None, lease.quoted_total / 4 * 5)
    moved = move(world, lease, found.starts_at, found.ends_at)
    assert moved.quoted_total == found.quote.total
    other = book(world, 12, 4, home=True)
    taken = other_time(lease, other.starts_at, other.ends_at, now=world.now)
    assert taken.instead is not None
    assert "home volume is booked" in str(taken.instead.obstacles.reasons[0])
    assert run_checks(world.now) == []
    assert verify_log().problems == []


def test_devices_are_looked_at_too() -> None:
    world = Studio()
    lease, other = world.book(TABLET, after=1), world.book(TABLET, after=6)
    assert other_time(lease, world.now + 2 * HOUR, world.now + 4 * HOUR, now=world.now).instead is None
    found = other_time(lease, other.starts_at, other.ends_at, now=world.now)
    assert found.instead is not None
    assert "somebody else's" in str(found.instead.obstacles.reasons[0])


def test_beyond_a_limit_it_is_refused_unless_it_waits_for_an_approver_anyway() -> None:
    world = World(gpus=2, concurrent_gpus=9)
    booked = book(world, 1, 2)
    set_quota(actor=SYSTEM, tenant=world.studio, kind="longest", value=3, now=world.now)  # type: ignore[arg-type]
    asked = book(world, 5, 4)
    window = world.now + 10 * HOUR, world.now + 15 * HOUR
    assert asked.state == "requested"
    found = other_time(booked, *window, now=world.now)
    assert (found.is_refused, bool(found.verdict.reason)) == (True, True)
    with pytest.raises(OutsideLimits):
        move(world, booked, *window)
    assert not other_time(asked, *window, now=world.now).is_refused
    assert move(world, asked, *window).state == "requested"


def test_only_what_has_not_begun_has_another_time() -> None:
    world = World(gpus=1)
    lease = book(world, 0, 2)
    world.start(lease)
    lease.refresh_from_db()
    with pytest.raises(WrongState, match="It has begun"):
        other_time(lease, world.now + HOUR, world.now + 2 * HOUR, now=world.now)
    ahead = book(world, 5, 2)
    with pytest.raises(InvalidRequest) as refused:
        other_time(ahead, world.now + 2 * HOUR, world.now + HOUR, now=world.now)
    assert isinstance(refused.value, DomainError)
    assert refused.value.field == "ends_at"
