"""Together on one lease: shared, handed over, noted for the next approver."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from hosts.protocol import messages as m
from leasing.actors import SYSTEM
from leasing.approval import approve_lease
from leasing.audit.verifier import verify_log
from leasing.booking import request_lease
from leasing.changing import change_end
from leasing.console import open_console, still_admitted
from leasing.ending import end_lease
from leasing.errors import InvalidRequest, NotAllowed, NotVisible, WrongState
from leasing.fsck import run_checks
from leasing.models import AuditEntry, ConsoleSession, HandOver, Lease, Notification, Person, Share
from leasing.policy import grant_role, revoke_role, visible_leases
from leasing.power import switch_power
from leasing.quotas import set_quota
from leasing.together.deciding import decide_hand_over
from leasing.together.handing_over import (
    accept_lease,
    decline_lease,
    give,
    lock,
    offer_lease,
    offered_to,
    take_back_offer,
)
from leasing.together.notes import notes_for, write_note
from leasing.together.sharing import share_lease, withdraw_share
from tests.world import World, person

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def world() -> World:
    world = World(gpus=3, concurrent_gpus=2)
    world.cleo = person("cleo")  # type: ignore[attr-defined]
    join(world, cleo(world))
    return world


def cleo(world: World) -> Person:
    found: Person = world.cleo  # type: ignore[attr-defined]
    return found


def join(world: World, who: Person, role: str = "member") -> None:
    grant_role(actor=SYSTEM, person=who, tenant=world.studio, role=role, now=world.now)  # type: ignore[arg-type]


def book(world: World, who: Person, *, hours: int = 4, after: timedelta = timedelta()) -> Lease:
    return request_lease(
        actor=world.actor(who), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=world.now + after, ends_at=world.now + after + hours * HOUR, now=world.now,
    )  # fmt: skip


def running(world: World) -> Lease:
    lease = book(world, world.ada)
    world.tick()
    command = world.command(lease, "provision")
    world.host.say(m.Accepted(), at=world.now, command=command)
    world.host.say(m.MachineRunning(lease_id=lease.pk), at=world.now, command=command)
    lease.refresh_from_db()
    return lease


def sees(who: Person, lease: Lease) -> bool:
    return visible_leases(who).filter(pk=lease.pk).exists()


def share(world: World, lease: Lease, level: str = "use") -> Share:
    return share_lease(
        actor=world.actor(world.ada), lease_id=lease.pk, username="cleo", level=level, now=world.now
    )


def console_of(world: World, lease: Lease) -> ConsoleSession:
    """A console that the colleague has open."""
    opened = open_console(actor=world.actor(cleo(world)), lease_id=lease.pk, session_key="k", now=world.now)
    assert still_admitted(opened.session_id)
    return ConsoleSession.objects.get(pk=opened.session_id)


def hand_over(world: World, lease: Lease, to: str = "cleo") -> HandOver:
    return offer_lease(actor=world.actor(world.ada), lease_id=lease.pk, username=to, now=world.now)


def accept(world: World, made: HandOver) -> Lease:
    return accept_lease(actor=world.actor(made.taker), hand_over_id=made.pk, now=world.now)


def all_is_well(world: World) -> None:
    assert run_checks(world.now) == []
    assert verify_log().problems == []


def test_who_may_only_look_has_no_switch_and_no_console(world: World) -> None:
    lease, who = running(world), world.actor(cleo(world))
    assert not sees(cleo(world), lease)
    share(world, lease, "view")
    assert sees(cleo(world), lease)
    with pytest.raises(NotAllowed):
        switch_power(actor=who, lease_id=lease.pk, action="off", now=world.now)
    with pytest.raises(NotAllowed):
        open_console(actor=who, lease_id=lease.pk, session_key="k", now=world.now)
    share(world, lease, "use")
    switch_power(actor=who, lease_id=lease.pk, action="restart", now=world.now)
    for refused in (
        lambda: end_lease(actor=who, lease_id=lease.pk, now=world.now),
        lambda: change_end(actor=who, lease_id=lease.pk, ends_at=lease.ends_at + HOUR, now=world.now),
        lambda: share_lease(actor=who, lease_id=lease.pk, username="cleo", level="use", now=world.now),
        lambda: hand_over_as(world, cleo(world), lease),
    ):
        with pytest.raises(NotAllowed):
            refused()
    assert Share.objects.filter(closed_at=None).count() == 1
    all_is_well(world)


def hand_over_as(world: World, who: Person, lease: Lease) -> None:
    offer_lease(actor=world.actor(who), lease_id=lease.pk, username="ada", now=world.now)


@pytest.mark.parametrize("how", ["withdrawn", "no longer a member", "ended"])
def test_what_was_shared_closes_at_once_with_its_console(how: str, world: World) -> None:
    lease = running(world)
    made = share(world, lease)
    console = console_of(world, lease)
    if how == "withdrawn":
        withdraw_share(actor=world.actor(world.ada), share_id=made.pk, now=world.now)
    elif how == "ended":
        end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    else:
        revoke_role(actor=SYSTEM, person=cleo(world), tenant=world.studio, role="member", now=world.now)
    assert not sees(cleo(world), lease)
    assert not still_admitted(console.pk)
    if how != "no longer a member":
        made.refresh_from_db()
        console.refresh_from_db()
        assert (made.closed_at, console.closed_at) == (world.now, world.now)
        all_is_well(world)


def test_it_is_shared_with_members_of_the_tenant_alone(world: World) -> None:
    lease = running(world)
    for name in ("bob", "ada", "nobody"):
        with pytest.raises(InvalidRequest):
            share_lease(
                actor=world.actor(world.ada), lease_id=lease.pk, username=name, level="view", now=world.now
            )
    with pytest.raises(WrongState):
        share(world, book(world, world.ada, after=10 * HOUR))
    with pytest.raises(NotVisible):
        withdraw_share(actor=world.actor(world.bob), share_id=share(world, lease).pk, now=world.now)


def test_a_running_lease_changes_hands_and_its_bill_tells_both(world: World) -> None:
    lease = running(world)
    world.now += HOUR
    made = hand_over(world, lease)
    assert list(offered_to(cleo(world))) == [made]
    assert sees(cleo(world), lease)
    accept(world, made)
    assert not sees(world.ada, lease)
    world.now += HOUR
    lease = end_lease(actor=world.actor(cleo(world)), lease_id=lease.pk, now=world.now)
    spans = [(one.person.username, one.ends_at) for one in lease.segments.order_by("starts_at")]
    assert spans == [("ada", world.now - HOUR), ("cleo", world.now)]
    told = Notification.objects.filter(kind="lease-hand-over", subject__contains="is now cleo's")
    assert set(told.values_list("recipient__username", flat=True)) == {"ada", "cleo"}
    assert "3.80 EUR" in told[0].body
    entry = AuditEntry.objects.get(action="lease.hand-over")
    assert (entry.actor, '"was":"ada"' in entry.text) == ("cleo", True)
    all_is_well(world)


def test_what_changes_hands_the_moment_it_begins_is_the_new_owners_from_then_on(world: World) -> None:
    lease = running(world)
    assert lease.active_at == world.now
    accept(world, hand_over(world, lease))
    (segment,) = lease.segments.all()
    assert (segment.person, segment.starts_at) == (cleo(world), lease.active_at)
    all_is_well(world)


def test_the_limits_of_the_new_owner_are_asked_and_beyond_them_an_approver_is(world: World) -> None:
    lease = book(world, world.ada, after=HOUR)
    set_quota(
        actor=SYSTEM,
        tenant=world.studio,
        person=cleo(world),
        kind="gpu-hours",
        value=Decimal(3),
        now=world.now,
    )
    made = hand_over(world, lease)
    join(world, world.approver, "approver")
    assert accept(world, made).owner == world.ada
    lease.refresh_from_db()
    made.refresh_from_db()
    assert (lease.owner, made.state) == (world.ada, "asked")
    assert "Your own" in str(made.because)
    told = Notification.objects.filter(kind="lease-request", lease=lease)
    assert [notice.recipient for notice in told] == [world.approver]
    assert sees(cleo(world), lease)
    take_back_offer(actor=world.actor(world.ada), hand_over_id=made.pk, now=world.now)
    made = hand_over(world, lease)
    set_quota(
        actor=SYSTEM,
        tenant=world.studio,
        person=cleo(world),
        kind="gpu-hours",
        value=Decimal(4),
        now=world.now,
    )
    assert accept(world, made).owner == cleo(world)
    with pytest.raises(WrongState):
        accept(world, made)
    all_is_well(world)


def asked_for_more(world: World, lease: Lease) -> HandOver:
    """What cleo has accepted, and may not have without somebody's word."""
    join(world, world.approver, "approver")
    set_quota(
        actor=SYSTEM,
        tenant=world.studio,
        person=cleo(world),
        kind="gpu-hours",
        value=Decimal(3),
        now=world.now,
    )
    made = hand_over(world, lease)
    accept(world, made)
    made.refresh_from_db()
    return made


def decide(world: World, who: Person, made: HandOver, *, approve: bool = True, note: str = "") -> HandOver:
    return decide_hand_over(
        actor=world.actor(who), hand_over_id=made.pk, approve=approve, note=note, now=world.now
    )


@pytest.mark.parametrize("runs", [False, True])
def test_an_approver_lets_somebody_have_more_than_their_limits(world: World, runs: bool) -> None:
    lease = running(world) if runs else book(world, world.ada, after=HOUR)
    made = asked_for_more(world, lease)
    with pytest.raises(NotVisible):
        decide(world, cleo(world), made)
    join(world, world.ada, "approver")
    join(world, cleo(world), "approver")
    for who in (world.ada, cleo(world)):
        with pytest.raises(NotAllowed):
            decide(world, who, made)
    world.now += HOUR / 2
    decide(world, world.approver, made, note="Until the fair.")
    lease.refresh_from_db()
    made.refresh_from_db()
    assert (lease.owner, made.state, made.decided_by) == (cleo(world), "accepted", world.approver)
    with pytest.raises(NotVisible):
        decide(world, world.approver, made)
    all_is_well(world)


def test_what_an_approver_declines_stays_whose_it_is(world: World) -> None:
    lease = book(world, world.ada, after=HOUR)
    made = asked_for_more(world, lease)
    with pytest.raises(InvalidRequest):
        decide(world, world.approver, made, approve=False)
    decide(world, world.approver, made, approve=False, note="Too long.")
    lease.refresh_from_db()
    made.refresh_from_db()
    assert (lease.owner, made.state) == (world.ada, "refused")
    assert not sees(cleo(world), lease)
    assert Notification.objects.filter(lease=lease, body__contains="Too long.").count() == 2
    hand_over(world, lease)
    all_is_well(world)


def test_nobody_but_an_approver_excepts_a_hand_over(world: World) -> None:
    """fsck sees what was handed over beyond the limits without a word of somebody else's."""
    lease = book(world, world.ada, after=HOUR)
    made = asked_for_more(world, lease)
    locked_lease, _tenant = lock(lease.pk, world.ada, cleo(world))
    made.lease, made.state, made.decided_at = locked_lease, HandOver.State.ACCEPTED, world.now
    give(world.actor(cleo(world)), made, excepted=True, now=world.now)
    assert any("need no decision" in str(found) for found in run_checks(world.now))


def test_a_request_goes_on_waiting_and_nobody_gets_what_they_approved(world: World) -> None:
    join(world, world.approver)
    for hours in (0, 1):
        book(world, world.ada, hours=9, after=hours * HOUR)
    asked = book(world, world.ada, hours=5, after=2 * HOUR)
    assert asked.state == "requested"
    accept(world, hand_over(world, asked))
    asked.refresh_from_db()
    assert (asked.state, asked.owner) == ("requested", cleo(world))
    approve_lease(actor=world.actor(world.approver), lease_id=asked.pk, now=world.now)
    with pytest.raises(WrongState, match="nobody approves"):
        offer_lease(
            actor=world.actor(cleo(world)), lease_id=asked.pk, username=world.approver.username, now=world.now
        )
    all_is_well(world)


def test_an_offer_is_declined_or_taken_back_and_ends_with_its_lease(world: World) -> None:
    lease = book(world, world.ada, after=HOUR)
    declined = hand_over(world, lease)
    with pytest.raises(WrongState):
        hand_over(world, lease)
    with pytest.raises(NotVisible):
        decline_lease(actor=world.actor(world.bob), hand_over_id=declined.pk, now=world.now)
    decline_lease(actor=world.actor(cleo(world)), hand_over_id=declined.pk, now=world.now)
    assert not sees(cleo(world), lease)
    with pytest.raises(NotVisible):
        take_back_offer(
            actor=world.actor(cleo(world)), hand_over_id=hand_over(world, lease).pk, now=world.now
        )
    take_back_offer(
        actor=world.actor(world.ada), hand_over_id=HandOver.objects.get(state="open").pk, now=world.now
    )
    last = hand_over(world, lease)
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    last.refresh_from_db()
    assert last.state == "withdrawn"
    all_is_well(world)


def test_notes_reach_the_next_approver_and_those_of_approvers_stay_among_them(world: World) -> None:
    second = person("second")
    join(world, second, "approver")
    for _each in range(2):
        book(world, world.ada, after=HOUR)
    asked = book(world, world.ada, after=HOUR)
    write_note(
        actor=world.actor(world.ada), lease_id=asked.pk, text="The stand opens on Friday.", now=world.now
    )
    write_note(actor=world.actor(world.approver), lease_id=asked.pk, text="Ask Finance first.", now=world.now)
    assert [note.text for note in notes_for(second, asked)] == [
        "The stand opens on Friday.",
        "Ask Finance first.",
    ]
    assert [note.text for note in notes_for(world.ada, asked)] == ["The stand opens on Friday."]
    with pytest.raises(NotVisible):
        write_note(actor=world.actor(cleo(world)), lease_id=asked.pk, text="Hello", now=world.now)
    with pytest.raises(InvalidRequest):
        write_note(actor=world.actor(world.ada), lease_id=asked.pk, text="x" * 501, now=world.now)
