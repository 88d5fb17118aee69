"""Snapshots: taken of what is off or ends, kept, started from, gone when their person says so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

import msgspec
import pytest
from django.db import IntegrityError, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hosts.models import Host
from hosts.protocol import messages as m
from hosts.protocol.signing import unseal
from hosts.protocol.snapshots import SnapshotFailed, SnapshotRemoved, SnapshotTaken
from leasing import fsck, policy, snapshots
from leasing.actors import SYSTEM
from leasing.billing.closing import close_month
from leasing.billing.prices import set_storage_rate
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.errors import DomainError, InvalidRequest, NotAllowed, NothingFree, NotVisible, WrongState
from leasing.exports.filter import Billed
from leasing.exports.lines import read_lines
from leasing.extras import extras_of
from leasing.models import AuditEntry, Block, Lease, Notification, OutboxMessage, Snapshot
from leasing.power import switch_power
from leasing.snapshots_kept import left_behind, snapshots_of
from leasing.states.snapshot import SnapshotState
from leasing.timing import SAVING_PATIENCE
from leasing.together.handing_over import offer_lease
from tests.domain.test_homes import HOUR, a_world, check, each, give_pool, leave
from tests.world import World
from tests.world import person as somebody

pytestmark = pytest.mark.django_db
BYTES = 7 * 1024**3


def book(
    world: World, *, start: timedelta | None = None, hours: int = 4, snapshot: Snapshot | None = None
) -> Lease:
    starts_at = world.now + start if start is not None else None
    return request_lease(
        actor=world.actor(world.ada),
        tenant=world.studio,
        flavor=world.flavor,
        image=world.image,
        starts_at=starts_at,
        ends_at=(starts_at or world.now) + hours * HOUR,
        snapshot=snapshot,
        now=world.now,
    )


def switched_off(world: World, lease: Lease) -> Lease:
    Lease.objects.filter(pk=lease.pk, state="active").update(machine=Lease.Machine.OFF)
    return lease


def take(world: World, lease: Lease, *, at_end: bool = False) -> Snapshot:
    return snapshots.take_snapshot(
        actor=world.actor(world.ada), lease_id=lease.pk, at_end=at_end, now=world.now
    )


def order_of(world: World, snapshot: Snapshot) -> OutboxMessage:
    return OutboxMessage.objects.filter(subject=f"snapshot:{snapshot.pk}").latest("generation")


def taken(world: World, snapshot: Snapshot) -> str:
    told = SnapshotTaken(snapshot_id=snapshot.pk, lease_id=snapshot.lease_id, size_bytes=BYTES)
    return world.host.say(told, at=world.now, command=order_of(world, snapshot))


def a_kept_one(world: World) -> Snapshot:
    """Of a lease that has ended."""
    lease = book(world)
    world.start(lease)
    snapshot = take(world, switched_off(world, lease))
    world.tick()
    assert taken(world, snapshot) == "applied"
    world.now += HOUR
    leave(world, lease)
    gone(world, lease)
    snapshot.refresh_from_db()
    return snapshot


def gone(world: World, lease: Lease, *told: m.Event) -> None:
    """The host says those things of its release, and that it is over."""
    world.tick()
    release = world.command(lease, "release")
    for event in (*told, m.MachineGone(lease_id=lease.pk)):
        world.host.say(event, at=world.now, command=release)
    for hold in lease.holds.select_related("gpu"):
        world.scrub(world.host, hold.gpu, lease=lease)
    world.tick()


def release_of(world: World, lease: Lease) -> m.Release:
    goal = msgspec.json.decode(world.command(lease, "release").goal, type=m.Goal)
    assert isinstance(goal, m.Release)
    return goal


def remove(world: World, snapshot: Snapshot) -> Snapshot:
    return snapshots.remove_snapshot(actor=world.actor(world.ada), snapshot_id=snapshot.pk, now=world.now)


def removed(world: World, snapshot: Snapshot) -> str:
    done = SnapshotRemoved(snapshot_id=snapshot.pk)
    return world.host.say(done, at=world.now, command=order_of(world, snapshot))


def test_what_was_taken_while_off_outlives_its_lease_and_another_starts_from_it() -> None:
    world, key = a_world()
    snapshot = a_kept_one(world)
    assert (snapshot.state, snapshot.size_bytes) == (SnapshotState.KEPT, BYTES)
    goal = msgspec.json.decode(order_of(world, snapshot).goal, type=m.Goal)
    assert isinstance(goal, m.TakeSnapshot)
    secret = unseal(goal.snapshot.sealed_key, key=key)
    assert (goal.snapshot.pool, len(secret)) == ("studio", 64)
    assert secret.decode() not in str(list(AuditEntry.objects.values_list("text", flat=True)))
    assert secret.decode() not in str(Snapshot.objects.values()[0])
    lease = book(world, snapshot=snapshot)
    with pytest.raises(WrongState, match="is booked to start from it"):
        remove(world, snapshot)
    world.start(lease)
    provision = msgspec.json.decode(world.command(lease, "provision").goal, type=m.Goal)
    assert isinstance(provision, m.Provision)
    start = provision.machine.snapshot
    assert start is not None
    assert (start.snapshot_id, unseal(start.sealed_key, key=key)) == (snapshot.pk, secret)
    snapshot.refresh_from_db()
    taken_at = snapshot.taken_at
    assert taken_at is not None
    assert remove(world, snapshot).state == SnapshotState.REMOVING
    snapshot.refresh_from_db()
    world.tick(after=snapshots.REMOVAL_AGAIN)
    assert OutboxMessage.objects.filter(kind="remove-snapshot").count() == 2
    other = world.enrol("hv2")
    assert "stale" in other.say(SnapshotRemoved(snapshot_id=snapshot.pk), at=world.now)
    assert removed(world, snapshot) == "applied"
    snapshot.refresh_from_db()
    assert (snapshot.state, snapshot.sealed_key) == (SnapshotState.REMOVED, "")
    assert not OutboxMessage.objects.filter(kind="remove-snapshot", answered_at=None).exists()
    world.host.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    check(world)


def test_it_is_billed_from_when_it_was_taken_until_its_removal_is_ordered() -> None:
    world, _key = a_world()
    petra = somebody("petra")
    policy.grant_global_role(actor=SYSTEM, person=petra, role="platform-finance", now=world.now)
    set_storage_rate(actor=world.actor(petra), per_gib_month=Decimal(730), currency="EUR", now=world.now)
    snapshot = a_kept_one(world)
    assert snapshot.taken_at is not None
    line = snapshot.segments.get()
    assert (line.starts_at, line.ends_at, line.gib, line.rate_per_hour) == (
        snapshot.taken_at, None, 7, Decimal(7)
    )  # fmt: skip
    world.now = datetime(2026, 4, 1, 2, tzinfo=UTC)
    world.host.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    world.tick()
    (march,) = close_month(actor=SYSTEM, tenant=world.studio, name="2026-03", now=world.now).invoices
    billed = march.lines.get(cause="stored")
    kept = datetime(2026, 4, 1, tzinfo=UTC) - snapshot.taken_at
    assert (billed.flavor_name, billed.seconds, billed.gpus) == (snapshot.name, int(kept.total_seconds()), 0)
    told = next(one for one in read_lines(Billed.everything(), now=world.now) if one.is_open)
    assert (told.machine_name, told.flavor_name, told.amount) == (snapshot.name, "Snapshot", Decimal(14))
    remove(world, snapshot)
    assert removed(world, snapshot) == "applied"
    assert not snapshot.segments.filter(ends_at=None).exists()
    world.now = datetime(2026, 5, 1, tzinfo=UTC)
    (april,) = close_month(actor=SYSTEM, tenant=world.studio, name="2026-04", now=world.now).invoices
    assert april.net == Decimal(14)
    check(world)


def test_it_is_saved_with_the_release_when_it_ends() -> None:
    world, _ = a_world()
    lease = book(world)
    world.start(lease)
    with pytest.raises(WrongState, match="is on"):
        take(world, lease)
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, save=True, now=world.now)
    snapshot = Snapshot.objects.get()
    world.tick()
    order = release_of(world, lease).save
    assert order is not None
    assert (order.snapshot_id, snapshot.state) == (snapshot.pk, SnapshotState.TAKING)
    gone(world, lease, SnapshotTaken(snapshot_id=snapshot.pk, lease_id=lease.pk, size_bytes=BYTES))
    snapshot.refresh_from_db()
    assert snapshot.state == SnapshotState.KEPT
    assert Notification.objects.filter(recipient=world.ada, kind="snapshot-taken").count() == 1
    check(world)


def test_what_is_wanted_at_the_end_is_taken_then_or_not_if_that_is_taken_back() -> None:
    world, _ = a_world()
    lease = book(world, hours=1)
    world.start(lease)
    first = take(world, lease, at_end=True)
    with pytest.raises(WrongState, match="is to be taken"):
        take(world, lease, at_end=True)
    assert remove(world, first).state == SnapshotState.REMOVED
    second = take(world, lease, at_end=True)
    world.tick(after=HOUR - timedelta(minutes=3))
    assert "A snapshot of its disk is taken at the end" in Notification.objects.latest("id").body
    world.host.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    world.tick(after=timedelta(minutes=3))
    order = release_of(world, lease).save
    assert order is not None
    assert order.snapshot_id == second.pk
    with pytest.raises(WrongState, match="being taken"):
        remove(world, second)
    failed = SnapshotFailed(snapshot_id=second.pk, lease_id=lease.pk, reason="No space left on device")
    gone(world, lease, failed)
    second.refresh_from_db()
    assert second.state == SnapshotState.REMOVING
    (notice,) = Notification.objects.filter(recipient=world.ada, kind="snapshot-failed")
    assert "went with the workstation" in notice.body
    assert "No space left" in notice.body
    assert removed(world, second) == "applied"
    check(world)


def test_one_that_fails_while_the_workstation_is_off_leaves_its_disk_and_says_so() -> None:
    world, _ = a_world()
    lease = book(world)
    world.start(lease)
    failing(world, take(world, switched_off(world, lease)))
    (notice,) = Notification.objects.filter(recipient=world.ada, kind="snapshot-failed")
    assert "It is still there: try it again." in notice.body
    check(world)


def test_one_that_failed_while_the_release_is_under_way_has_another_try_in_it() -> None:
    world, _ = a_world()
    lease = book(world)
    world.start(lease)
    snapshot = take(world, switched_off(world, lease))
    world.tick()
    with pytest.raises(WrongState, match="being taken"):
        switch_power(actor=world.actor(world.ada), lease_id=lease.pk, action="on", now=world.now)
    leave(world, lease)
    world.tick()
    deadline = world.command(lease, "release").deadline_at
    assert deadline is not None
    assert deadline - world.now > SAVING_PATIENCE
    assert release_of(world, lease).save is not None
    failed = SnapshotFailed(snapshot_id=snapshot.pk, lease_id=lease.pk, reason="Killed")
    assert world.host.say(failed, at=world.now, command=order_of(world, snapshot)) == "applied"
    snapshot.refresh_from_db()
    assert snapshot.state == SnapshotState.TAKING
    gone(world, lease)  # and not a word of the disk
    snapshot.refresh_from_db()
    assert snapshot.state == SnapshotState.REMOVING
    check(world)


def test_a_host_that_refuses_has_not_taken_it() -> None:
    world, _ = a_world()
    lease = book(world)
    world.start(lease)
    snapshot = take(world, switched_off(world, lease))
    world.tick()
    world.host.say(m.Refused(reason="Not here.", final=True), at=world.now, command=order_of(world, snapshot))
    snapshot.refresh_from_db()
    assert snapshot.state == SnapshotState.REMOVING
    check(world)


def test_only_its_owner_takes_has_and_removes_it() -> None:
    world, _ = a_world()
    lease = book(world)
    world.start(lease)
    switched_off(world, lease)
    for person, refusal in ((world.bob, NotVisible), (world.approver, NotAllowed)):
        with pytest.raises(refusal):
            snapshots.take_snapshot(actor=world.actor(person), lease_id=lease.pk, at_end=True, now=world.now)
    with pytest.raises(NotAllowed):
        end_lease(actor=world.actor(world.approver), lease_id=lease.pk, save=True, now=world.now)
    snapshot = take(world, lease, at_end=True)
    with pytest.raises(WrongState, match="snapshot"):
        offer_lease(
            actor=world.actor(world.ada), lease_id=lease.pk, username=world.approver.username, now=world.now
        )
    for person in (world.bob, world.approver):
        with pytest.raises(NotVisible):
            snapshots.remove_snapshot(actor=world.actor(person), snapshot_id=snapshot.pk, now=world.now)
    with pytest.raises(InvalidRequest, match="no such snapshot"):
        request_lease(
            actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
            starts_at=world.now + 8 * HOUR, ends_at=world.now + 9 * HOUR, snapshot=snapshot, now=world.now,
        )  # fmt: skip
    policy.revoke_role(actor=SYSTEM, person=world.ada, tenant=world.studio, role="member", now=world.now)
    assert list(left_behind(world.studio)) == [snapshot]
    leader = world.actor(world.approver)
    assert snapshots.remove_snapshot(actor=leader, snapshot_id=snapshot.pk, now=world.now).state == "removed"


def test_there_are_so_many_and_no_more() -> None:
    world, _ = a_world()
    kept = a_kept_one(world)
    lease = book(world)
    world.start(lease)
    switched_off(world, lease)
    for name, value in (("SNAPSHOTS_PER_PERSON", 1), ("SNAPSHOT_GIB_PER_PERSON", kept.size_gib)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"django.conf.settings.{name}", value)
            with pytest.raises(InvalidRequest):
                take(world, lease)
    assert take(world, lease).state == SnapshotState.TAKING


def test_a_host_without_a_pool_and_a_pool_without_a_host() -> None:
    world, key = a_world(gpus=1)
    snapshot = a_kept_one(world)
    world.host, old = world.enrol("hv2"), world.host
    world.admit(world.host, 2)
    old.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    Snapshot.objects.update(size_gib=1)
    snapshot.refresh_from_db()
    first = book(world, snapshot=snapshot)
    assert first.holds.get().gpu.host == old.row
    assert extras_of(first).reach(first.flavor) == frozenset([Block.objects.get(host=old.row).pk])
    with pytest.raises(NothingFree, match="start from your snapshot"):
        book(world, start=HOUR, snapshot=snapshot)
    world.host = old
    world.start(first)
    Host.objects.filter(pk=old.row.pk).update(pool=None)
    with pytest.raises(InvalidRequest, match="no storage"):
        take(world, switched_off(world, first), at_end=True)
    give_pool(old, "studio", key)
    Snapshot.objects.update(size_gib=10**6)
    snapshot.refresh_from_db()
    with pytest.raises(NothingFree):
        book(world, start=24 * HOUR, snapshot=snapshot)


def test_the_database_knows_one_at_a_time_and_what_is_kept_is_whole() -> None:
    world, _ = a_world()
    lease = book(world)
    world.start(lease)
    snapshot = take(world, switched_off(world, lease))
    with pytest.raises(IntegrityError), transaction.atomic():
        Snapshot.objects.create(
            tenant=world.studio, person=world.ada, pool=snapshot.pool, lease=lease, image=world.image,
            size_gib=1, state=SnapshotState.WANTED, state_since=world.now, created_at=world.now,
        )  # fmt: skip
    with pytest.raises(IntegrityError), transaction.atomic():
        Snapshot.objects.update(state=SnapshotState.KEPT)


def test_what_is_awaited_in_vain_is_found() -> None:
    world, _ = a_world()
    snapshot = a_kept_one(world)
    Snapshot.objects.update(sealed_key="", state=SnapshotState.TAKING)
    assert {one.check for one in fsck.run_checks(world.now)} == {"snapshots", "states"}
    assert snapshot in snapshots_of(world.ada)


STEPS = st.lists(
    st.sampled_from(
        ["book", "from", "run", "off", "take", "later", "taken", "failed", "end", "gone", "remove", "removed"]
    ),
    max_size=30,
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_whatever_happens_nothing_is_awaited_in_vain(steps: list[str]) -> None:
    with transaction.atomic():
        world, _ = a_world(gpus=2)
        for step in steps:
            act(world, step)
            assert list(fsck.snapshots.snapshots_are_where_they_belong(world.now)) == []
            assert list(fsck.lifecycles.states_follow_from_the_log(world.now)) == []
        transaction.set_rollback(True)


def act(world: World, step: str) -> None:
    """What people and the host do; what is refused changes nothing."""
    world.now += timedelta(minutes=10)
    world.host.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    active = Lease.objects.filter(state="active")
    known = Snapshot.objects.all()
    deeds: dict[str, Callable[[], object]] = {
        "book": lambda: book(world, hours=1),
        "from": lambda: each(lambda one: book(world, hours=1, snapshot=one), known.filter(state="kept")),
        "run": lambda: each(world.start, Lease.objects.filter(state="provisioning")),
        "off": lambda: each(partial(switched_off, world), active),
        "take": lambda: each(partial(take, world), active),
        "later": lambda: each(partial(take, world, at_end=True), active),
        "taken": lambda: each(partial(taken, world), known.filter(state="taking", generation__gt=0)),
        "failed": lambda: each(partial(failing, world), known.filter(state="taking", generation__gt=0)),
        "end": lambda: each(partial(leave, world), active),
        "gone": lambda: each(partial(gone, world), Lease.objects.filter(state="releasing")),
        "remove": lambda: each(partial(remove, world), known),
        "removed": lambda: each(partial(removed, world), known.filter(state="removing")),
    }
    with suppress(DomainError), transaction.atomic():
        deeds[step]()
    world.tick()


def failing(world: World, snapshot: Snapshot) -> None:
    told = SnapshotFailed(snapshot_id=snapshot.pk, lease_id=snapshot.lease_id, reason="No.")
    world.host.say(told, at=world.now, command=order_of(world, snapshot))
