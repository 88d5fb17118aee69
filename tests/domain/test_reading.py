"""Files of a home volume without a GPU: who may look, that no lease waits for it, and that it always ends."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import msgspec
import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nacl.public import PrivateKey

from hosts.models import Host
from hosts.protocol import messages as m
from hosts.protocol.homes import HomeRead, ReadHome
from hosts.protocol.signing import unseal
from leasing import emergency, fsck, policy, reading
from leasing.actors import SYSTEM
from leasing.errors import DomainError, InvalidRequest, NotVisible, WrongState
from leasing.homes import remove_volume
from leasing.models import AuditEntry, EmergencyStop, HomeReading, HomeVolume, Lease, OutboxMessage, Person
from leasing.states.home import HomeState
from leasing.states.lease import LeaseState
from tests.domain.test_homes import a_world, book, check, end, order_of
from tests.world import World

pytestmark = pytest.mark.django_db
SESSION = "session-of-ada"


def a_kept_volume() -> tuple[World, PrivateKey, HomeVolume]:
    world, key = a_world()
    Host.objects.filter(pk=world.host.row.pk).update(reads_homes=True)
    first = book(world)
    world.start(first)
    end(world, first)
    return world, key, HomeVolume.objects.get()


def look(
    world: World, volume: HomeVolume, *, who: Person | None = None, wanted: str = "list", path: str = ""
) -> HomeReading:
    actor = world.actor(who or world.ada)
    return reading.read_home(
        actor=actor, volume_id=volume.pk, wanted=wanted, path=path, session_key=SESSION, now=world.now
    )


def order(one: HomeReading) -> ReadHome:
    told = OutboxMessage.objects.filter(kind="read-home").values_list("goal", flat=True)
    goals = [msgspec.json.decode(goal, type=ReadHome) for goal in told]
    return next(goal for goal in goals if goal.reading_id == one.pk)


def dial(world: World, key: PrivateKey, one: HomeReading) -> HomeReading | None:
    token = unseal(order(one).sealed_token, key=key).decode()
    return reading.admit_host(reading_id=one.pk, token=token, now=world.now)


def over(world: World, one: HomeReading, reason: str = "") -> str:
    command = OutboxMessage.objects.filter(kind="read-home").latest("created_at")
    return world.host.say(HomeRead(reading_id=one.pk, reason=reason), at=world.now, command=command)


def state_of(volume: HomeVolume) -> str:
    volume.refresh_from_db()
    return volume.state


def test_its_person_looks_into_it_and_it_is_free_again() -> None:
    world, key, volume = a_kept_volume()
    one = look(world, volume, path="/renders")
    goal = order(one)
    assert (goal.volume_id, goal.pool, goal.wanted, goal.path) == (volume.pk, "studio", "list", "/renders")
    assert goal.gateway_url.endswith(f"/ws/host-reading/{one.pk}/")
    assert len(unseal(goal.sealed_key, key=key)) == 64
    assert state_of(volume) == HomeState.READING
    check(world)
    assert dial(world, key, one) is not None
    assert dial(world, key, one) is None
    reading.keep_listing(reading_id=one.pk, listing={"entries": []}, clean=True)
    assert over(world, one) == "applied"
    assert over(world, one) == "stale: it was over"
    assert state_of(volume) == HomeState.DETACHED
    one.refresh_from_db()
    assert (one.reason, one.listing, one.was_clean) == ("", {"entries": []}, True)
    told = str(list(AuditEntry.objects.values_list("text", flat=True)))
    assert "renders" not in told
    world.tick(after=reading.SHOWN)
    one.refresh_from_db()
    assert one.listing is None
    check(world)


def test_nobody_else_may_not_even_who_leads_or_runs_the_site() -> None:
    world, _key, volume = a_kept_volume()
    for who in (world.bob, world.approver, world.operator, world.auditor):
        with pytest.raises(NotVisible):
            look(world, volume, who=who)
    policy.revoke_role(actor=SYSTEM, person=world.ada, tenant=world.studio, role="member", now=world.now)
    for who in (world.ada, world.approver):
        with pytest.raises(NotVisible):
            look(world, volume, who=who)
    check(world)


@pytest.mark.parametrize("path", ["renders", "/..", "/a/../b", "/a/", "//a", "/a\n", "/" + "x" * 1001])
def test_the_way_to_a_file_is_one(path: str) -> None:
    world, _key, volume = a_kept_volume()
    with pytest.raises(InvalidRequest):
        look(world, volume, path=path)
    assert state_of(volume) == HomeState.DETACHED


def test_what_cannot_be_read_says_why() -> None:
    world, _ = a_world()
    lease = book(world)
    world.start(lease)
    volume = HomeVolume.objects.get()
    with pytest.raises(WrongState, match="A workstation has"):
        look(world, volume)
    end(world, lease)
    with pytest.raises(WrongState, match="No host can look"):
        look(world, volume)
    Host.objects.update(reads_homes=True)
    look(world, volume)
    with pytest.raises(WrongState, match="being read"):
        look(world, volume)
    with pytest.raises(WrongState, match="being read"):
        remove_volume(actor=world.actor(world.ada), volume_id=volume.pk, now=world.now)
    check(world)


def test_a_lease_that_is_due_comes_first() -> None:
    world, key, volume = a_kept_volume()
    one = look(world, volume, wanted="file", path="/big")
    dial(world, key, one)
    assert reading.still_wanted(one.pk)
    lease = book(world)
    world.tick()
    lease.refresh_from_db()
    assert (lease.state, reading.still_wanted(one.pk)) == (LeaseState.SCHEDULED, False)
    over(world, one, "Nobody waits for it any more.")
    world.start(lease)
    assert order_of(world, lease).volume_id == volume.pk
    assert state_of(volume) == HomeState.ATTACHED
    check(world)


def test_a_host_that_refuses_or_never_dials_leaves_it_free() -> None:
    world, key, volume = a_kept_volume()
    one = look(world, volume)
    command = OutboxMessage.objects.filter(kind="read-home").latest("created_at")
    world.tick()
    world.host.say(m.Refused(reason="no system", final=True), at=world.now, command=command)
    one.refresh_from_db()
    assert (state_of(volume), one.reason) == (HomeState.DETACHED, "no system")
    silent = look(world, volume)
    world.tick(after=timedelta(seconds=31))
    silent.refresh_from_db()
    assert state_of(volume) == HomeState.DETACHED
    assert "did not answer in time" in silent.reason
    assert dial(world, key, silent) is None
    gone = look(world, volume)
    assert dial(world, key, gone) is not None
    reading.note_closed(reading_id=gone.pk, now=world.now)
    world.tick(after=timedelta(minutes=1))
    assert state_of(volume) == HomeState.READING
    world.tick(after=reading.REPORT_PATIENCE)
    assert state_of(volume) == HomeState.DETACHED
    check(world)


def test_an_emergency_stops_reading_too() -> None:
    world, key, volume = a_kept_volume()
    one = look(world, volume, wanted="archive")
    dial(world, key, one)
    stopped = halt(world, "tenant", world.studio.slug, typed=world.studio.name)
    assert not reading.still_wanted(one.pk)
    over(world, one)
    with pytest.raises(WrongState, match="stopped machines"):
        look(world, volume)
    emergency.lift_stop(actor=world.actor(world.operator), stop_id=stopped.pk, now=world.now)
    again = look(world, volume)
    assert reading.still_wanted(again.pk)
    name = world.host.row.name
    halt(world, "host", name, typed=name)
    assert not reading.still_wanted(again.pk)
    over(world, again)
    with pytest.raises(WrongState, match="No host can look"):
        look(world, volume)
    check(world)


def halt(world: World, scope: str, name: str, *, typed: str) -> EmergencyStop:
    actor = world.actor(world.operator)
    found = emergency.preview_stop(actor=actor, scope=scope, name=name)
    return emergency.stop(
        actor=actor, scope=scope, name=name, bookings=False, machines=True, reason="smoke", typed=typed,
        seen=found.seen, now=world.now,
    )  # fmt: skip


def test_what_was_read_is_forgotten() -> None:
    world, _key, volume = a_kept_volume()
    one = look(world, volume, wanted="file", path="/secret plan.txt")
    over(world, one)
    world.tick(after=reading.KEPT - timedelta(minutes=1))
    assert HomeReading.objects.count() == 1
    world.tick(after=timedelta(minutes=2))
    assert HomeReading.objects.count() == 0
    check(world)


def test_a_download_is_for_the_session_that_asked_and_once() -> None:
    world, _key, volume = a_kept_volume()
    one = look(world, volume, wanted="archive")
    assert reading.admit_browser(reading_id=one.pk, session_key="another", now=world.now) is None
    assert reading.admit_browser(reading_id=one.pk, session_key=SESSION, now=world.now) is not None
    assert reading.admit_browser(reading_id=one.pk, session_key=SESSION, now=world.now) is None
    over(world, one)
    listed = look(world, volume)
    assert reading.admit_browser(reading_id=listed.pk, session_key=SESSION, now=world.now) is None


def test_whoever_is_blocked_is_cut_off() -> None:
    world, key, volume = a_kept_volume()
    one = look(world, volume, wanted="archive")
    dial(world, key, one)
    policy.grant_role(actor=SYSTEM, person=world.bob, tenant=world.studio, role="member", now=world.now)
    assert reading.still_wanted(one.pk)
    policy.revoke_role(actor=SYSTEM, person=world.ada, tenant=world.studio, role="member", now=world.now)
    assert not reading.still_wanted(one.pk)


class Days:
    """What may happen to a volume, in any order. Each method is one event; what cannot be is refused."""

    def __init__(self) -> None:
        self.world, self.key, self.volume = a_kept_volume()
        self.one: HomeReading | None = None
        self.lease: Lease | None = None

    def look(self) -> None:
        self.one = look(self.world, self.volume, wanted="file", path="/a")

    def dial(self) -> None:
        if self.one:
            dial(self.world, self.key, self.one)

    def over(self) -> None:
        if self.one:
            over(self.world, self.one)

    def book(self) -> None:
        self.lease = book(self.world)

    def end(self) -> None:
        if self._state() == LeaseState.ACTIVE and self.lease:
            end(self.world, self.lease)

    def remove(self) -> None:
        remove_volume(actor=self.world.actor(self.world.ada), volume_id=self.volume.pk, now=self.world.now)

    def wait(self) -> None:
        self.world.tick(after=timedelta(minutes=6))

    def begin(self) -> None:
        self.world.tick()
        if self._state() == LeaseState.PROVISIONING and self.lease:
            self.world.start(self.lease)

    def _state(self) -> str | None:
        return Lease.objects.get(pk=self.lease.pk).state if self.lease else None


EVENTS = ("look", "dial", "over", "book", "begin", "end", "remove", "wait")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(EVENTS), max_size=14))
def test_whatever_happens_one_at_a_time_has_it(events: list[str]) -> None:
    with transaction.atomic():
        days = Days()
        for event in events:
            with suppress(DomainError), transaction.atomic():
                getattr(days, event)()
            assert list(fsck.homes.homes_are_where_they_belong(days.world.now)) == []
            assert list(fsck.lifecycles.states_follow_from_the_log(days.world.now)) == []
            open_ones = HomeReading.objects.filter(ended_at=None).count()
            assert open_ones == (state_of(days.volume) == HomeState.READING)
        transaction.set_rollback(True)
