"""What nobody ever used is given back after a warning; what is not known to be unused never is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from hosts.protocol import messages as m
from leasing import signs_of_use
from leasing.booking import request_lease
from leasing.console import open_console
from leasing.errors import NotAllowed, NotVisible, WrongState
from leasing.fsck import run_checks
from leasing.idleness import Due, say_in_use, what_is_due
from leasing.models import Guest, Lease, Notification
from leasing.power import switch_power
from leasing.signs_of_use import Signs
from leasing.timing import HOST_SILENT_AFTER, UNUSED_WARNING
from leasing.usage import lease_cost
from tests.world import START, World

MINUTE, AFTER = timedelta(minutes=1), timedelta(minutes=60)
moments = st.none() | st.integers(-60, 240).map(lambda minutes: START + minutes * MINUTE)
signs = st.lists(st.builds(Signs, moments, moments, moments, moments), max_size=3)


@hypothesis_settings(deadline=None)
@given(signs, moments, moments, st.integers(0, 240))
def test_only_what_was_watched_all_the_time_and_never_used_is_due(
    told: list[Signs], seen: datetime | None, warned_at: datetime | None, minutes: int
) -> None:
    now = START + minutes * MINUTE
    due = what_is_due(since=START, signs=told, host_seen_at=seen, warned_at=warned_at, after=AFTER, now=now)
    if due is Due.NOTHING:
        return
    assert all(one.first_used_at is None and one.last_used_at is None for one in told)
    assert seen is not None
    assert now - seen < HOST_SILENT_AFTER
    assert any(
        one.watched_from is not None
        and one.watched_until is not None
        and one.watched_from <= START
        and now - one.watched_until < HOST_SILENT_AFTER
        and one.watched_until - START >= AFTER
        for one in told
    )
    assert now - START >= AFTER
    assert (due is Due.WARN) == (warned_at is None)
    if warned_at is not None:
        assert now - warned_at >= UNUSED_WARNING


class Watching:
    """A source that has watched every machine since it began to run, and has seen no use."""

    silent = False

    def signs_of(self, leases: Sequence[Lease], *, now: datetime) -> Mapping[UUID, Signs]:
        if self.silent:
            return {}
        return {lease.pk: Signs(watched_from=lease.active_at, watched_until=now) for lease in leases}


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Watching:
    source = Watching()
    monkeypatch.setattr(signs_of_use, "SOURCES", [*signs_of_use.SOURCES, source])
    return source


@pytest.fixture
def world(db: None, settings: Settings) -> World:
    settings.UNUSED_AFTER_MINUTES = 60
    return World(gpus=1)


def running(world: World) -> Lease:
    lease = request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=None, ends_at=world.now + timedelta(hours=8), now=world.now,
    )  # fmt: skip
    world.start(lease)
    return lease


def pass_time(world: World, lease: Lease, after: timedelta, *, heard: bool = True) -> str:
    """The host is heard of, unless it is not; the state of the lease afterwards."""
    world.now += after
    if heard:
        world.host.inventory("0000:01:00.0", at=world.now)
    world.tick()
    lease.refresh_from_db()
    return lease.state


def told(lease: Lease) -> list[str]:
    kinds = ("lease-unused", "lease-given-back")
    return list(lease.notification_set.filter(kind__in=kinds).order_by("pk").values_list("kind", flat=True))


def test_the_owner_is_warned_and_then_it_is_given_back_and_billed_for_what_was_held(
    world: World, watching: Watching
) -> None:
    lease = running(world)
    assert pass_time(world, lease, AFTER - MINUTE) == "active"
    assert told(lease) == []
    assert pass_time(world, lease, MINUTE) == "active"
    assert told(lease) == ["lease-unused"]
    assert lease.given_back_at == world.now + UNUSED_WARNING
    assert pass_time(world, lease, UNUSED_WARNING - MINUTE) == "active"
    assert pass_time(world, lease, MINUTE) == "releasing"
    assert told(lease) == ["lease-unused", "lease-given-back"]
    assert str(lease.outcome_reason).startswith("Nobody used it in its first 60 minutes")
    assert lease_cost(lease, now=world.now) == Decimal("5.70"), "an hour and a half"
    assert run_checks(world.now) == []


def test_one_click_says_otherwise(world: World, watching: Watching) -> None:
    lease = running(world)
    pass_time(world, lease, AFTER)
    body = Notification.objects.get(lease=lease, kind="lease-unused").body
    assert body.endswith(f"/workstations/{lease.pk}/")
    assert "the time it was held is billed" in body
    with pytest.raises(NotAllowed):
        say_in_use(actor=world.actor(world.approver), lease_id=lease.pk, now=world.now)
    with pytest.raises(NotVisible):
        say_in_use(actor=world.actor(world.bob), lease_id=lease.pk, now=world.now)
    say_in_use(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    assert pass_time(world, lease, 3 * UNUSED_WARNING) == "active"
    assert (lease.first_used_at, lease.given_back_at) == (START + AFTER, None)
    assert run_checks(world.now) == []


@pytest.mark.parametrize("how", ["console", "power"])
def test_what_its_person_does_counts_as_use(world: World, watching: Watching, how: str) -> None:
    lease, ada = running(world), world.actor(world.ada)
    if how == "console":
        open_console(actor=ada, lease_id=lease.pk, session_key="k", now=world.now)
    else:
        switch_power(actor=ada, lease_id=lease.pk, action="restart", now=world.now)
    assert pass_time(world, lease, 2 * AFTER) == "active"
    assert told(lease) == []


def test_nothing_is_given_back_that_nobody_watches(world: World) -> None:
    """The portal alone cannot know that a machine is not used."""
    lease = running(world)
    for _hour in range(4):
        assert pass_time(world, lease, AFTER) == "active"
    assert told(lease) == []


@pytest.mark.parametrize("who", ["source", "host"])
def test_nor_while_whoever_watches_or_the_host_is_silent(world: World, watching: Watching, who: str) -> None:
    lease = running(world)
    pass_time(world, lease, AFTER)
    watching.silent = who == "source"
    assert pass_time(world, lease, 2 * UNUSED_WARNING, heard=who != "host") == "active"
    watching.silent = False
    assert pass_time(world, lease, MINUTE) == "releasing"


def test_it_is_off_unless_the_site_turns_it_on(world: World, watching: Watching, settings: Settings) -> None:
    settings.UNUSED_AFTER_MINUTES = 0
    lease = running(world)
    assert pass_time(world, lease, 4 * AFTER) == "active"
    assert told(lease) == []


def test_only_what_runs_can_be_in_use(world: World) -> None:
    lease = request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=world.now + AFTER, ends_at=world.now + 2 * AFTER, now=world.now,
    )  # fmt: skip
    with pytest.raises(WrongState):
        say_in_use(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)


def told_of(world: World, lease: Lease, use: str, **facts: object) -> str:
    """What the host says that it has seen of the machine; what the portal makes of it."""
    said = m.GuestFacts(lease_id=lease.pk, answers="none", use=use, **facts)  # type: ignore[arg-type]
    return world.host.say(m.Guests(guests=(said,)), at=world.now)


def test_what_its_host_has_watched_and_nobody_used_is_given_back(world: World) -> None:
    lease = running(world)
    for after in (AFTER, UNUSED_WARNING):
        world.now += after
        assert told_of(world, lease, "none") == "applied"
        pass_time(world, lease, timedelta(0))
    assert told(lease) == ["lease-unused", "lease-given-back"]
    assert lease.state == "releasing"
    assert run_checks(world.now) == []


@pytest.mark.parametrize("use", ["unknown", "network", "person"])
def test_what_its_host_has_seen_in_use_or_could_not_see_stays(world: World, use: str) -> None:
    lease = running(world)
    used_at = None if use == "unknown" else world.now
    for _hour in range(4):
        told_of(world, lease, use, used_at=used_at)
        assert pass_time(world, lease, AFTER) == "active"
    assert told(lease) == []
    assert lease.first_used_at == used_at


def test_who_is_seen_using_it_after_the_warning_keeps_it(world: World) -> None:
    lease = running(world)
    world.now += AFTER
    told_of(world, lease, "none")
    pass_time(world, lease, timedelta(0))
    assert lease.given_back_at is not None
    world.now += MINUTE
    told_of(world, lease, "console", used_at=world.now + AFTER)
    assert pass_time(world, lease, 2 * UNUSED_WARNING) == "active"
    assert Lease.objects.get(pk=lease.pk).given_back_at is None
    assert lease.first_used_at == START + AFTER + MINUTE, "not in the future"


def test_a_report_that_comes_late_speaks_of_its_own_time(world: World) -> None:
    lease = running(world)
    looked_at, world.now = world.now + MINUTE, world.now + 2 * AFTER
    said = m.Guests(guests=(m.GuestFacts(lease_id=lease.pk, answers="agent", use="none"),))
    world.host.say(said, at=looked_at, now=world.now)
    pass_time(world, lease, timedelta(0))
    assert told(lease) == []


def test_a_host_tells_of_its_own_machines_alone(world: World) -> None:
    lease, other = running(world), world.enrol("hv2")
    said = m.Guests(guests=(m.GuestFacts(lease_id=lease.pk, answers="agent", use="none"),))
    assert other.say(said, at=world.now).startswith("refused")
    assert not Guest.objects.exists()


def test_a_machine_that_is_started_anew_has_yet_to_answer(world: World) -> None:
    lease = running(world)
    said = m.GuestFacts(lease_id=lease.pk, answers="agent", hostname="studio-7", addresses=("10.9.0.2",))
    world.host.say(m.Guests(guests=(said,)), at=world.now)
    kept = Guest.objects.get()
    assert (kept.answers, kept.answered_at, kept.addresses) == ("agent", world.now, ["10.9.0.2"])
    world.host.say(m.MachineRunning(lease_id=lease.pk), at=world.now)
    kept.refresh_from_db()
    assert (kept.answers, kept.answered_at, kept.hostname) == ("none", None, "studio-7")
