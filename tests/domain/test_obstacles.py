"""What stands in the way is what stands in the way: told when it alone would do, and about others no more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from hypothesis import given
from hypothesis import strategies as st

from leasing.actors import SYSTEM
from leasing.booking import request_lease
from leasing.causes import Blocked, Cause
from leasing.ending import end_lease
from leasing.fleet import withdraw_gpu
from leasing.models import Block, Closure, Flavor, Lease, Person, Tenant, WaitlistEntry
from leasing.obstacles import InTheWay, in_the_way, telling
from leasing.openings.upkeep import rebuild, refresh_host
from leasing.slots import NearMisses, find_start, near_misses
from tests.chosen import chosen, how_many
from tests.world import World

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
# Always the same bookings, unless LEASEHOLD_FLEETS asks for that many others.
CHOSEN = chosen(how_many(8))

blocked_groups = st.lists(
    st.lists(st.frozensets(st.sampled_from(list(Cause)), max_size=3), max_size=4), max_size=3
)


@given(blocked_groups, st.integers(1, 4))
def test_a_cause_is_told_when_it_alone_keeps_the_window_from_fitting(
    groups: list[Blocked], count: int
) -> None:
    def fits(gone: frozenset[Cause]) -> bool:
        return any(sum(not gpu - gone for gpu in group) >= count for group in groups)

    told = telling(groups, count)
    alone = [cause for cause in Cause if fits(frozenset([cause]))]
    if fits(frozenset()) or not fits(frozenset(Cause)):
        assert told == []
    elif alone:
        assert told == alone
    else:
        assert fits(frozenset(told)), "together they are all that there is"


@pytest.fixture
def world() -> World:
    return World(gpus=2, concurrent_gpus=9)


def book(world: World, who: Person, tenant: Tenant, starts: timedelta, ends: timedelta) -> Lease:
    return request_lease(
        actor=world.actor(who),
        tenant=tenant,
        flavor=world.flavor,
        image=world.image,
        starts_at=world.now + starts,
        ends_at=world.now + ends,
        now=world.now,
    )


def asking(world: World, starts: timedelta, ends: timedelta, flavor: Flavor | None = None) -> InTheWay:
    """What Ada is told."""
    return in_the_way(
        flavor or world.flavor, world.now + starts, world.now + ends, person=world.ada, now=world.now
    )


def codes(told: InTheWay) -> list[str]:
    return [reason.code for reason in told.reasons]


def test_others_are_not_named(world: World) -> None:
    for _both in range(2):
        book(world, world.bob, world.research, 2 * HOUR, 4 * HOUR)
    told = asking(world, 3 * HOUR, 5 * HOUR)
    assert (codes(told), told.own) == (["booked-by-others"], [])
    assert "bob" not in str(told.reasons[0]).casefold()


def test_ones_own_are_named_if_they_alone_are_in_the_way(world: World) -> None:
    mine = book(world, world.ada, world.studio, 2 * HOUR, 4 * HOUR)
    assert codes(asking(world, 3 * HOUR, 5 * HOUR)) == []
    book(world, world.bob, world.research, 2 * HOUR, 4 * HOUR)
    told = asking(world, 3 * HOUR, 5 * HOUR)
    assert codes(told) == ["own-workstations", "booked-by-others"], "either would do"
    assert told.own == [mine]


def test_what_is_closed_and_what_is_out_of_service(world: World) -> None:
    withdraw_gpu(actor=SYSTEM, gpu_id=world.gpus[0].pk, reason="fan", now=world.now)
    Closure.objects.create(
        host=world.host.row, gpu=world.gpus[1], starts_at=world.now + 4 * HOUR, created_at=world.now
    )
    refresh_host(world.host.row.pk, world.now, None)
    assert codes(asking(world, 1 * HOUR, 2 * HOUR)) == []
    assert codes(asking(world, 3 * HOUR, 5 * HOUR)) == ["gpus-out-of-service"]


def test_what_is_kept_for_the_first_in_line(world: World) -> None:
    entry = WaitlistEntry.objects.create(
        tenant=world.research, owner=world.bob, flavor=world.flavor, image=world.image, duration=2 * HOUR,
        earliest_at=world.now, last_start_at=world.now + 3 * HOUR, joined_at=world.now, rank_at=world.now,
        kept_from=world.now + 3 * HOUR, kept_until=world.now + 5 * HOUR,
    )  # fmt: skip
    entry.kept_gpus.set(world.gpus)
    Block.objects.update(kept_for=entry)
    rebuild(world.host.row.pk)
    assert codes(asking(world, 4 * HOUR, 6 * HOUR)) == ["kept-for-the-line"]
    assert codes(asking(world, 6 * HOUR, 7 * HOUR)) == []
    assert find_start(world.flavor, 2 * HOUR, earliest=world.now + 4 * HOUR, now=world.now) != (
        world.now + 4 * HOUR
    )


def test_minutes_for_cleaning_are_said_to_be_that(world: World) -> None:
    for _both in range(2):
        book(world, world.bob, world.research, 2 * HOUR, 4 * HOUR)
    told = asking(world, 4 * HOUR, 5 * HOUR)
    assert codes(told) == ["no-time-between"]
    assert "7 minutes" in str(told.reasons[0])


def test_more_than_any_host_has(world: World) -> None:
    many = Flavor.objects.create(slug="many", name="Many", model=world.model, gpu_count=3)
    told = asking(world, 1 * HOUR, 2 * HOUR, many)
    assert codes(told) == ["too-few-together"]
    assert "3 GPUs" in str(told.reasons[0])
    node = Flavor.objects.create(slug="node", name="Node", model=world.model, gpu_count=2, numa="required")
    assert codes(asking(world, 1 * HOUR, 2 * HOUR, node)) == ["too-few-together"], "they are on two nodes"


@CHOSEN
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(1, 4)), max_size=5),
    st.integers(0, 9),
    st.integers(1, 4),
)
def test_something_is_in_the_way_exactly_where_nothing_fits(
    others: list[tuple[bool, int, int]], start: int, length: int
) -> None:
    with transaction.atomic():
        world = World(gpus=2, concurrent_gpus=99)
        pair = Flavor.objects.create(slug="pair", name="Pair", model=world.model, gpu_count=2)
        for mine, begin, hours in others:
            who, tenant = (world.ada, world.studio) if mine else (world.bob, world.research)
            if find_start(world.flavor, hours * HOUR, earliest=world.now + begin * HOUR, now=world.now) == (
                world.now + begin * HOUR
            ):
                book(world, who, tenant, begin * HOUR, (begin + hours) * HOUR)
        asked = world.now + start * HOUR
        fits = find_start(pair, length * HOUR, earliest=asked, now=world.now) == asked
        told = asking(world, start * HOUR, (start + length) * HOUR, pair)
        assert (told.reasons == []) == fits
        if codes(told) == ["own-workstations"]:
            for lease in told.own:
                end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
            assert find_start(pair, length * HOUR, earliest=asked, now=world.now) == asked
        transaction.set_rollback(True)


def nearly(world: World, flavor: Flavor, hours: int, **asked: timedelta) -> NearMisses:
    moments: dict[str, Any] = {name: world.now + after for name, after in asked.items()}
    return near_misses(flavor, hours * HOUR, person=world.ada, now=world.now, **moments)


def test_near_misses_are_shorter_later_smaller_and_of_another_model(world: World) -> None:
    pair = Flavor.objects.create(slug="pair", name="Pair", model=world.model, gpu_count=2)
    world.price(pair)
    book(world, world.bob, world.research, 3 * HOUR, 6 * HOUR)
    found = nearly(world, pair, 4, earliest=HOUR)
    assert codes(found.obstacles) == ["booked-by-others"]
    assert found.shorter is not None
    assert found.shorter.starts_at == world.now + HOUR
    assert found.shorter.ends_at == world.now + 3 * HOUR - timedelta(seconds=120 + 300)
    assert [slot.starts_at for slot in found.later][:1] == [
        world.now + 6 * HOUR + timedelta(seconds=120 + 300)
    ]
    assert [(other.slug, slot.starts_at) for other, slot in found.others] == [("studio", world.now + HOUR)]


def test_a_deadline_that_is_too_early_is_said_and_not_what_was_booked(world: World) -> None:
    found = nearly(world, world.flavor, 4, earliest=HOUR, deadline=3 * HOUR)
    assert codes(found.obstacles) == ["deadline-too-early"]
    assert found.shorter is not None
    assert found.shorter.ends_at == world.now + 3 * HOUR
    assert nearly(world, world.flavor, 4, earliest=3 * HOUR, deadline=HOUR).shorter is None


def test_another_model_is_offered_if_it_can_be_had_sooner_or_at_all(world: World) -> None:
    pair = Flavor.objects.create(slug="pair", name="Pair", model=world.model, gpu_count=2)
    trio = Flavor.objects.create(slug="trio", name="Trio", model=world.model, gpu_count=3)
    for flavor in (pair, trio):
        world.price(flavor)
    for _both in range(2):
        book(world, world.bob, world.research, HOUR, 6 * HOUR)
    assert nearly(world, pair, 4, earliest=2 * HOUR).others == [], "the smaller one is not to be had sooner"
    found = nearly(world, trio, 4, earliest=2 * HOUR)
    assert found.later == []
    assert [other.slug for other, _slot in found.others] == ["pair", "studio"]
