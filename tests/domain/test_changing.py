"""A later end, an earlier one, another window: what is booked, what is billed, who has to make way."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.db import transaction
from hypothesis import given
from hypothesis import strategies as st

from hosts.protocol import messages as m
from leasing.actors import SYSTEM
from leasing.booking import request_lease
from leasing.changing import OutsideLimits, change_end, change_window
from leasing.ending import end_lease
from leasing.errors import InvalidRequest, NothingFree, NotVisible, WrongState
from leasing.fsck import Finding, run_checks
from leasing.latest_end import extension_limit
from leasing.metering import quoted_total
from leasing.models import Extension, Flavor, Hold, Lease, Notification, OutboxMessage, Rate
from leasing.openings.upkeep import rebuild
from leasing.quotas import set_quota
from leasing.timing import LONGEST_LEASE, UPDATE_DEADLINE
from leasing.usage import lease_cost
from tests.chosen import chosen, how_many
from tests.world import World

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
# Always the same histories, unless LEASEHOLD_FLEETS asks for that many others.
CHOSEN = chosen(how_many(6))


@pytest.fixture
def world() -> World:
    return World(gpus=2, concurrent_gpus=9)


def book(world: World, starts: timedelta, ends: timedelta, *, flavor: Flavor | None = None) -> Lease:
    return request_lease(
        actor=world.actor(world.ada),
        tenant=world.studio,
        flavor=flavor or world.flavor,
        image=world.image,
        starts_at=world.now + starts,
        ends_at=world.now + ends,
        now=world.now,
    )


def run(world: World, lease: Lease) -> None:
    """Its host builds it."""
    world.tick()
    order = world.command(lease, "provision")
    world.host.say(m.Accepted(), at=world.now, command=order)
    world.host.say(m.MachineRunning(lease_id=lease.pk), at=world.now, command=order)
    lease.refresh_from_db()
    assert lease.state == "active"


def end_at(world: World, lease: Lease, ends_at: datetime) -> Lease:
    changed = change_end(actor=world.actor(world.ada), lease_id=lease.pk, ends_at=ends_at, now=world.now)
    lease.refresh_from_db()
    return changed


def acknowledge(world: World, lease: Lease) -> None:
    order = OutboxMessage.objects.get(lease=lease, kind="update", answered_at=None)
    world.host.say(m.Accepted(), at=world.now, command=order)
    lease.refresh_from_db()


def test_what_has_not_begun_is_extended_at_once_and_quoted_anew(world: World) -> None:
    lease = book(world, 24 * HOUR, 26 * HOUR)
    end_at(world, lease, lease.ends_at + HOUR)
    assert lease.ends_at == world.now + 27 * HOUR
    assert lease.quoted_total == Decimal("11.40")
    assert {hold.ends_at for hold in lease.holds.all()} == {lease.ends_at + timedelta(seconds=300)}
    assert run_checks(world.now) == []


def test_a_running_one_keeps_its_end_until_the_host_has_taken_over_the_new_one(world: World) -> None:
    lease = book(world, timedelta(0), 2 * HOUR)
    run(world, lease)
    old, new = lease.ends_at, lease.ends_at + 3 * HOUR
    end_at(world, lease, new)
    assert lease.ends_at == old
    assert quoted_total(lease) == Decimal("7.60"), "what the host has not confirmed is no price"
    assert lease.holds.get().ends_at > new, "but nobody else can have it"
    assert new.isoformat()[:19] in world.command(lease, "update").goal
    with pytest.raises(WrongState):
        end_at(world, lease, new + HOUR)
    acknowledge(world, lease)
    assert lease.ends_at == new
    assert quoted_total(lease) == Decimal("19.00")
    assert lease.extensions.get().state == Extension.State.CONFIRMED
    assert run_checks(world.now) == []
    world.now = old + MINUTE
    world.tick()
    lease.refresh_from_db()
    assert lease.state == "active"


@pytest.mark.parametrize("silent", [True, False])
def test_without_the_hosts_word_the_old_end_stays(world: World, silent: bool) -> None:
    lease = book(world, timedelta(0), 2 * HOUR)
    run(world, lease)
    old = lease.ends_at
    end_at(world, lease, old + 3 * HOUR)
    if silent:
        world.tick(after=UPDATE_DEADLINE + MINUTE)
    else:
        world.host.say(m.Refused(reason="no"), at=world.now, command=world.command(lease, "update"))
    lease.refresh_from_db()
    assert lease.ends_at == old
    assert lease.extensions.get().state == Extension.State.FAILED
    assert lease.holds.get().ends_at < old + HOUR
    assert Notification.objects.filter(lease=lease, kind="lease-not-extended").count() == 1
    told = OutboxMessage.objects.filter(lease=lease, kind="update", answered_at=None).get()
    assert old.isoformat()[:19] in told.goal, "should the host have taken it over after all"
    assert run_checks(world.now) == []


def test_a_lease_that_ends_takes_its_pending_extension_with_it(world: World) -> None:
    lease = book(world, timedelta(0), 2 * HOUR)
    run(world, lease)
    end_at(world, lease, lease.ends_at + HOUR)
    late = world.command(lease, "update")
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    world.host.say(m.Accepted(), at=world.now, command=late)
    lease.refresh_from_db()
    assert lease.extensions.get().state == Extension.State.FAILED
    assert lease.ends_at == world.now + 2 * HOUR


def test_the_end_of_an_extension_is_where_the_next_one_begins(world: World) -> None:
    one, _other = book(world, 1 * HOUR, 3 * HOUR), book(world, 1 * HOUR, 3 * HOUR)
    pair = Flavor.objects.create(slug="pair", name="Pair", model=world.model, gpu_count=2)
    world.price(pair)
    book(world, 6 * HOUR, 8 * HOUR, flavor=pair)
    limit = extension_limit(one, now=world.now)
    assert limit.taken
    assert limit.moves is None
    assert limit.until == world.now + 6 * HOUR - timedelta(seconds=120 + 300)
    with pytest.raises(NothingFree) as refused:
        end_at(world, one, limit.until + MINUTE)
    assert "at most" in str(refused.value.message)
    end_at(world, one, limit.until)
    assert run_checks(world.now) == []


def test_the_next_lease_moves_if_an_equal_gpu_is_free(world: World) -> None:
    one, blocker = book(world, 1 * HOUR, 3 * HOUR), book(world, 6 * HOUR, 8 * HOUR)
    Hold.objects.filter(lease=blocker).update(gpu=one.holds.get().gpu)
    rebuild(world.host.row.pk)
    limit = extension_limit(one, now=world.now)
    assert limit.moves == blocker
    assert not limit.taken
    assert limit.until == one.starts_at + LONGEST_LEASE
    end_at(world, one, world.now + 7 * HOUR)
    assert blocker.holds.get().gpu != one.holds.get().gpu
    assert Notification.objects.filter(lease=blocker, kind="lease-moved").count() == 1
    assert run_checks(world.now) == []


def test_an_earlier_end_frees_the_rest_at_once(world: World) -> None:
    lease = book(world, timedelta(0), 8 * HOUR)
    run(world, lease)
    end_at(world, lease, world.now + 2 * HOUR)
    assert lease.ends_at == world.now + 2 * HOUR
    assert lease.quoted_total == Decimal("7.60")
    assert lease.holds.get().ends_at == lease.ends_at + timedelta(seconds=300)
    assert world.command(lease, "update").answered_at is None
    with pytest.raises(InvalidRequest):
        end_at(world, lease, world.now)
    assert run_checks(world.now) == []


def test_limits_hold_for_extensions_too(world: World) -> None:
    set_quota(actor=SYSTEM, tenant=world.studio, kind="gpu-hours", value=Decimal(3), now=world.now)
    lease = book(world, timedelta(0), 2 * HOUR)
    assert lease.state == "scheduled"
    with pytest.raises(OutsideLimits):
        end_at(world, lease, lease.ends_at + 2 * HOUR)
    end_at(world, lease, lease.ends_at + HOUR)
    assert run_checks(world.now) == []


def test_another_window_before_it_begins_and_not_after(world: World) -> None:
    lease = book(world, 5 * HOUR, 6 * HOUR)
    actor = world.actor(world.ada)
    starts_at = world.now + 30 * HOUR
    change_window(
        actor=actor, lease_id=lease.pk, starts_at=starts_at, ends_at=starts_at + 4 * HOUR, now=world.now
    )
    lease.refresh_from_db()
    assert (lease.starts_at, lease.quoted_total) == (starts_at, Decimal("15.20"))
    assert lease.holds.get().starts_at == starts_at - timedelta(seconds=120)
    running = book(world, timedelta(0), HOUR)
    run(world, running)
    with pytest.raises(WrongState):
        change_window(
            actor=actor, lease_id=running.pk, starts_at=starts_at, ends_at=starts_at + HOUR, now=world.now
        )
    with pytest.raises(NotVisible):
        change_end(actor=world.actor(world.bob), lease_id=lease.pk, ends_at=starts_at + HOUR, now=world.now)
    assert run_checks(world.now) == []


def test_a_window_that_is_taken_leaves_everything_as_it_was(world: World) -> None:
    lease = book(world, 5 * HOUR, 6 * HOUR)
    for _both in range(2):
        book(world, 9 * HOUR, 12 * HOUR)
    held = list(lease.holds.values_list("gpu", "starts_at", "ends_at"))
    with pytest.raises(NothingFree):
        change_window(
            actor=world.actor(world.ada),
            lease_id=lease.pk,
            starts_at=world.now + 10 * HOUR,
            ends_at=world.now + 11 * HOUR,
            now=world.now,
        )
    lease.refresh_from_db()
    assert lease.starts_at == world.now + 5 * HOUR
    assert list(lease.holds.values_list("gpu", "starts_at", "ends_at")) == held
    assert run_checks(world.now) == []


def wrong(world: World) -> list[Finding]:
    """All but the log: its anchor is outside what an example rolls back."""
    return [finding for finding in run_checks(world.now) if finding.check != "audit"]


acts = st.lists(
    st.tuples(st.sampled_from(["end", "end", "dearer", "wait", "restart"]), st.integers(1, 240)), max_size=8
)


@CHOSEN
@given(acts)
def test_each_second_is_billed_at_the_rate_it_was_quoted_at(history: list[tuple[str, int]]) -> None:
    """Whatever was added and cut off, and however the price changed meanwhile."""
    with transaction.atomic():
        world = World(gpus=1, concurrent_gpus=9)
        lease = book(world, timedelta(0), 2 * HOUR)
        quoted = {second: Decimal("3.8") for second in range(0, 7200, 60)}
        begun, price = world.now, Decimal("3.8")
        run(world, lease)
        for act, minutes in history:
            if lease.state != "active":
                break
            if act == "dearer":
                price += 1
                Rate.objects.create(
                    flavor=world.flavor, per_hour=price, currency="EUR", valid_from=world.now - MINUTE
                )
                world.now += MINUTE
            elif act == "wait":
                world.tick(after=minutes * MINUTE)
            elif act == "end":
                wanted = world.now + minutes * MINUTE
                was = int((lease.ends_at - begun).total_seconds())
                try:
                    end_at(world, lease, wanted)
                except (InvalidRequest, NothingFree):
                    continue
                acknowledge(world, lease)
                ends = int((lease.ends_at - begun).total_seconds())
                quoted |= dict.fromkeys(range(was, ends, 60), price)
                quoted = {second: rate for second, rate in quoted.items() if second < ends}
            lease.refresh_from_db()
        assert wrong(world) == []
        if lease.state == "active":
            end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
            lease.refresh_from_db()
        used = int((min(lease.stopped_at or lease.ends_at, lease.ends_at) - begun).total_seconds())
        due = sum((rate / 60 for second, rate in quoted.items() if second < used), Decimal(0))
        assert wrong(world) == []
        assert abs(lease_cost(lease, now=world.now) - due) <= Decimal("0.005") * max(
            1, lease.segments.count()
        )
        assert wrong(world) == []
        transaction.set_rollback(True)
