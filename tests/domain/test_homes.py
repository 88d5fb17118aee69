"""Home volumes: made once, with one lease at a time, kept when it ends, gone when their person says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TypeVar

import msgspec
import pytest
from django.db import IntegrityError, transaction
from django.db.models import Model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey

from hosts.models import Host, StoragePool
from hosts.protocol import messages as m
from hosts.protocol.homes import HomeRemoved
from hosts.protocol.signing import public_hex, unseal
from leasing import fsck, homes, policy
from leasing.actors import SYSTEM
from leasing.audit.verifier import verify_log
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.errors import DomainError, InvalidRequest, NothingFree, NotVisible, WrongState
from leasing.fsck import run_checks
from leasing.keys import open_storage_key
from leasing.models import AuditEntry, HomeVolume, Lease, OutboxMessage
from leasing.states.home import HomeState
from leasing.states.lease import RUNNING
from leasing.together.handing_over import offer_lease
from tests.world import ScriptedHost, World

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
M = TypeVar("M", bound=Model)


def a_world(*, gpus: int = 2) -> tuple[World, PrivateKey]:
    """One host, with a pool, that can open what is sealed to it."""
    world, key = World(gpus=gpus), PrivateKey.generate()
    give_pool(world.host, "studio", key)
    return world, key


def give_pool(host: ScriptedHost, name: str, key: PrivateKey) -> None:
    pool, _ = StoragePool.objects.get_or_create(name=name)
    Host.objects.filter(pk=host.row.pk).update(pool=pool, sealing_key=public_hex(key))


def book(world: World, *, start: timedelta | None = None, hours: int = 4) -> Lease:
    starts_at = world.now + start if start is not None else None
    return request_lease(
        actor=world.actor(world.ada),
        tenant=world.studio,
        flavor=world.flavor,
        image=world.image,
        starts_at=starts_at,
        ends_at=(starts_at or world.now) + hours * HOUR,
        with_home=True,
        now=world.now,
    )


def order_of(world: World, lease: Lease) -> m.HomeOrder:
    goal = msgspec.json.decode(world.command(lease, "provision").goal, type=m.Goal)
    assert isinstance(goal, m.Provision)
    assert goal.machine.home is not None
    return goal.machine.home


def end(world: World, lease: Lease) -> None:
    world.now += HOUR
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    gone(world, lease)


def gone(world: World, lease: Lease) -> None:
    world.tick()
    release = world.command(lease, "release")
    world.host.say(m.MachineGone(lease_id=lease.pk), at=world.now, command=release)
    for hold in lease.holds.select_related("gpu"):
        world.scrub(world.host, hold.gpu, lease=lease)
    world.tick()


def check(world: World) -> None:
    world.tick()
    assert run_checks(world.now) == []
    assert verify_log().problems == []


def test_what_one_lease_made_the_next_one_has() -> None:
    world, key = a_world()
    first = book(world)
    world.start(first)
    made = order_of(world, first)
    volume = HomeVolume.objects.get()
    assert (made.volume_id, made.pool, made.made, made.size_gib) == (volume.pk, "studio", False, 50)
    assert (volume.state, volume.lease, volume.made_at is not None) == (HomeState.ATTACHED, first, True)
    end(world, first)
    second = book(world)
    world.start(second)
    again = order_of(world, second)
    assert (again.volume_id, again.made) == (volume.pk, True)
    opened = unseal(made.sealed_key, key=key)
    assert (opened, len(opened)) == (unseal(again.sealed_key, key=key), 64)
    assert opened.decode() not in str(list(AuditEntry.objects.values_list("text", flat=True)))
    assert opened.decode() not in str(HomeVolume.objects.values()[0])
    actions = [
        entry.action for entry in AuditEntry.objects.filter(subject=f"home:{volume.pk}").order_by("id")
    ]
    assert actions == ["home.create", "home.attach", "home.made", "home.detach", "home.attach"]
    check(world)


def test_a_key_opens_under_its_own_volume_alone() -> None:
    world, _ = a_world()
    world.start(book(world))
    volume = HomeVolume.objects.get()
    with pytest.raises(CryptoError):
        open_storage_key(volume.sealed_key, world.ada.pk)


def test_one_workstation_at_a_time_has_it() -> None:
    world, _ = a_world()
    first = book(world)
    with pytest.raises(InvalidRequest, match=first.machine_name):
        book(world, start=HOUR)
    world.start(first)
    lease_id, name = first.pk, world.bob.username
    policy.grant_role(actor=SYSTEM, person=world.bob, tenant=world.studio, role="member", now=world.now)
    with pytest.raises(WrongState, match="goes with its person"):
        offer_lease(actor=world.actor(world.ada), lease_id=lease_id, username=name, now=world.now)
    second = book(world, start=4 * HOUR)
    with pytest.raises(WrongState, match="goes with its person"):
        offer_lease(
            actor=world.actor(world.ada), lease_id=first.pk, username=world.approver.username, now=world.now
        )
    world.tick(after=4 * HOUR)
    world.host.inventory(*(gpu.address for gpu in world.gpus), at=world.now)  # the first one is not gone
    world.tick(after=timedelta(minutes=2))
    second.refresh_from_db()
    assert (second.state, second.waiting_because.code) == ("scheduled", "waits-for-home")
    gone(world, first)
    world.host.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    world.start(second)
    assert HomeVolume.objects.get().lease == second
    check(world)


def test_a_volume_draws_its_lease_to_the_hosts_of_its_pool() -> None:
    world, key = a_world(gpus=1)
    first = book(world)
    world.start(first)
    end(world, first)
    world.host, old = world.enrol("hv2"), world.host
    world.admit(world.host, 2)
    give_pool(world.host, "other", key)
    old.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    assert book(world).holds.get().gpu.host == old.row
    with pytest.raises(NothingFree, match="home volume"):
        request_lease(
            actor=world.actor(world.ada),
            tenant=world.studio,
            flavor=world.flavor,
            image=world.image,
            starts_at=world.now + 4 * HOUR,
            ends_at=world.now + 5 * HOUR,
            with_home=True,
            now=world.now,
        )


def test_whoever_books_twice_before_there_is_a_volume_has_one_for_both() -> None:
    world, key = a_world(gpus=1)
    first = book(world)
    other = world.enrol("hv2")
    world.admit(other, 1)
    give_pool(other, "other", key)
    world.host.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    assert book(world, start=8 * HOUR).holds.get().gpu.host == first.holds.get().gpu.host
    with pytest.raises(NothingFree, match="home volume"):
        book(world, start=4 * HOUR)  # only the other host is free between the two


def test_the_database_knows_one_place_for_a_volume() -> None:
    world, _ = a_world()
    lease = book(world)
    world.start(lease)
    volume = HomeVolume.objects.get()
    wrongs = (
        {"person": world.ada},  # a second one in the same pool
        {"person": world.bob, "lease": lease},  # a lease with two
        {"person": world.bob, "state": HomeState.DETACHED, "lease": None, "size_gib": None},
    )
    for wrong in wrongs:
        fields = {
            "tenant": world.studio,
            "pool": volume.pool,
            "size_gib": 1,
            "state": HomeState.ATTACHED if "lease" in wrong else HomeState.DETACHED,
            "state_since": world.now,
            "created_at": world.now,
        }
        with pytest.raises(IntegrityError), transaction.atomic():
            HomeVolume.objects.create(**fields | wrong)
    with pytest.raises(IntegrityError), transaction.atomic():
        HomeVolume.objects.update(lease=None)
    with pytest.raises(IntegrityError), transaction.atomic():
        HomeVolume.objects.update(state=HomeState.DETACHED)


def test_it_is_removed_when_its_person_says_so_and_a_host_has_done_it() -> None:
    world, _ = a_world()
    lease = book(world)
    world.start(lease)
    volume = HomeVolume.objects.get()
    ada, bob = world.actor(world.ada), world.actor(world.bob)
    with pytest.raises(WrongState):
        homes.remove_volume(actor=ada, volume_id=volume.pk, now=world.now)
    with pytest.raises(NotVisible):
        homes.remove_volume(actor=bob, volume_id=volume.pk, now=world.now)
    end(world, lease)
    homes.remove_volume(actor=ada, volume_id=volume.pk, now=world.now)
    homes.remove_volume(actor=ada, volume_id=volume.pk, now=world.now)
    world.tick(after=homes.REMOVAL_AGAIN)
    orders = OutboxMessage.objects.filter(kind="remove-home")
    assert orders.count() == 2
    other = world.enrol("hv2")
    assert other.say(HomeRemoved(volume_id=volume.pk), at=world.now) == "stale: it was not ordered"
    done = HomeRemoved(volume_id=volume.pk)
    assert world.host.say(done, at=world.now, command=orders.latest("created_at")) == "applied"
    volume.refresh_from_db()
    assert (volume.state, volume.sealed_key) == (HomeState.REMOVED, "")
    assert orders.filter(answered_at=None).count() == 0
    world.host.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    world.start(book(world))
    assert HomeVolume.objects.count() == 2
    check(world)


def test_what_somebody_left_behind_is_removed_by_those_who_lead_the_team() -> None:
    world, _ = a_world()
    lease = book(world)
    world.start(lease)
    end(world, lease)
    volume, leader = HomeVolume.objects.get(), world.actor(world.approver)
    with pytest.raises(NotVisible):
        homes.remove_volume(actor=leader, volume_id=volume.pk, now=world.now)
    policy.revoke_role(actor=SYSTEM, person=world.ada, tenant=world.studio, role="member", now=world.now)
    for stranger in (world.bob, world.finance):
        with pytest.raises(NotVisible):
            homes.remove_volume(actor=world.actor(stranger), volume_id=volume.pk, now=world.now)
    assert list(homes.left_behind(world.studio)) == [volume]
    assert homes.remove_volume(actor=leader, volume_id=volume.pk, now=world.now).state == HomeState.REMOVING
    check(world)


def test_a_volume_in_the_wrong_hands_is_found() -> None:
    world, _ = a_world()
    world.start(book(world))
    HomeVolume.objects.update(person=world.bob)
    assert [one.check for one in run_checks(world.now)] == ["homes"]


STEPS = st.lists(st.sampled_from(["book", "later", "tick", "run", "end", "gone", "remove"]), max_size=40)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_whatever_happens_one_lease_at_most_has_it(steps: list[str]) -> None:
    with transaction.atomic():
        world, _ = a_world(gpus=2)
        for step in steps:
            act(world, step)
            assert list(fsck.homes.homes_are_where_they_belong(world.now)) == []
            assert list(fsck.lifecycles.states_follow_from_the_log(world.now)) == []
        transaction.set_rollback(True)


def act(world: World, step: str) -> None:
    """What people, time and the host do; what is refused changes nothing."""
    world.now += timedelta(minutes=20)
    deeds: dict[str, Callable[[], object]] = {
        "book": lambda: book(world, hours=1),
        "later": lambda: book(world, start=2 * HOUR, hours=1),
        "tick": world.tick,
        "run": lambda: each(world.start, Lease.objects.filter(state="provisioning")),
        "end": lambda: each(partial(leave, world), Lease.objects.filter(state__in=RUNNING)),
        "gone": lambda: each(partial(gone, world), Lease.objects.filter(state="releasing")),
        "remove": lambda: each(partial(remove, world), HomeVolume.objects.all()),
    }
    with suppress(DomainError), transaction.atomic():
        deeds[step]()


def each(deed: Callable[[M], object], rows: Iterable[M]) -> None:
    for row in rows:
        deed(row)


def leave(world: World, lease: Lease) -> None:
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)


def remove(world: World, volume: HomeVolume) -> None:
    homes.remove_volume(actor=world.actor(world.ada), volume_id=volume.pk, now=world.now)
