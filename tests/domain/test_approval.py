"""Deciding: what has to be known, an earlier end, and an approval that is taken back."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from leasing.actors import SYSTEM
from leasing.approval import approve_lease, reject_lease, revoke_approval, waiting_for_decision
from leasing.booking import request_lease
from leasing.changing import OutsideLimits, change_end
from leasing.considerations import considerations
from leasing.ending import end_lease
from leasing.errors import InvalidRequest, NotAllowed, NotVisible, WrongState
from leasing.fsck import run_checks
from leasing.models import Lease, Notification
from leasing.policy import grant_role
from leasing.quotas import set_quota
from tests.world import World

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def world() -> World:
    world = World(gpus=3, concurrent_gpus=1)
    set_quota(actor=SYSTEM, tenant=world.studio, kind="gpu-hours", value=Decimal(8), now=world.now)
    return world


def book(world: World, *, hours: int = 4, after: timedelta = HOUR) -> Lease:
    return request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=world.now + after, ends_at=world.now + after + hours * HOUR, now=world.now,
    )  # fmt: skip


def told(lease: Lease) -> Notification:
    """What its owner heard last."""
    return Notification.objects.filter(lease=lease, recipient=lease.owner).latest("pk")


def test_what_it_does_to_each_limit_and_to_others_is_known(world: World) -> None:
    book(world, hours=2)
    asked = book(world, hours=7, after=2 * HOUR)
    known = considerations(asked, now=world.now)
    facts = {one.limit.kind: (int(one.there), int(one.asked), one.month) for one in known.measures}
    assert facts["gpus"] == (1, 1, "")
    assert facts["gpu-hours"] == (2, 7, "2026-03")
    assert {one.limit.kind for one in known.measures if one.is_over} == {"gpus", "gpu-hours"}
    assert known.another_free
    assert known.inside_until is None, "somebody else of the team has a GPU at its start"
    book(world, hours=3, after=2 * HOUR)
    assert not considerations(asked, now=world.now).another_free


def test_until_when_it_would_need_no_approval_is_known(world: World) -> None:
    book(world, hours=3, after=20 * HOUR)
    asked = book(world, hours=9)
    assert considerations(asked, now=world.now).inside_until == asked.starts_at + 5 * HOUR


def test_it_may_be_approved_with_an_earlier_end(world: World) -> None:
    asked, approver = book(world, hours=9), world.actor(world.approver)
    ends_at = asked.starts_at + 6 * HOUR
    approve_lease(actor=approver, lease_id=asked.pk, note="Six will do.", ends_at=ends_at, now=world.now)
    asked.refresh_from_db()
    assert (asked.state, asked.ends_at, asked.quoted_total) == ("scheduled", ends_at, Decimal("22.80"))
    assert asked.holds.get().ends_at == ends_at + timedelta(seconds=300)
    assert told(asked).body.startswith("It ends earlier than you asked. Six will do.")
    with pytest.raises(OutsideLimits):
        change_end(actor=world.actor(world.ada), lease_id=asked.pk, ends_at=ends_at + 3 * HOUR, now=world.now)
    assert run_checks(world.now) == []


@pytest.mark.parametrize("hours", [0, -1, 10])
def test_but_not_with_a_later_one_nor_with_none_at_all(world: World, hours: int) -> None:
    asked = book(world, hours=9)
    with pytest.raises(InvalidRequest) as refused:
        approve_lease(
            actor=world.actor(world.approver),
            lease_id=asked.pk,
            ends_at=asked.starts_at + hours * HOUR,
            now=world.now,
        )
    assert refused.value.field == "ends_at"
    asked.refresh_from_db()
    assert (asked.state, asked.decided_by) == ("requested", None)


def test_an_approval_is_taken_back_while_nothing_has_started(world: World) -> None:
    asked, approver = book(world, hours=9), world.actor(world.approver)
    with pytest.raises(WrongState):
        revoke_approval(actor=approver, lease_id=asked.pk, note="Not yet approved.", now=world.now)
    approve_lease(actor=approver, lease_id=asked.pk, now=world.now)
    with pytest.raises(InvalidRequest):
        revoke_approval(actor=approver, lease_id=asked.pk, note=" ", now=world.now)
    revoke_approval(actor=approver, lease_id=asked.pk, note="I misread it.", now=world.now)
    asked.refresh_from_db()
    assert (asked.state, asked.outcome, str(asked.outcome_reason)) == ("ended", "rejected", "I misread it.")
    assert not asked.holds.exists()
    assert "was taken back" in told(asked).subject
    assert "I misread it." in told(asked).body
    assert run_checks(world.now) == []


def test_not_once_it_has_begun_and_not_what_nobody_had_to_approve(world: World) -> None:
    approver, free = world.actor(world.approver), book(world)
    begun = book(world, hours=9, after=timedelta(0))
    approve_lease(actor=approver, lease_id=begun.pk, now=world.now)
    world.start(begun)
    for lease in (free, begun):
        with pytest.raises(WrongState):
            revoke_approval(actor=approver, lease_id=lease.pk, note="No.", now=world.now)
    assert run_checks(world.now) == []


def test_nobody_decides_on_their_own_in_any_way(world: World) -> None:
    """Not even an approver, nor on what somebody else has approved."""
    grant_role(actor=SYSTEM, person=world.ada, tenant=world.studio, role="approver", now=world.now)
    asked, ada = book(world, hours=9), world.actor(world.ada)
    with pytest.raises(NotAllowed):
        approve_lease(actor=ada, lease_id=asked.pk, now=world.now)
    with pytest.raises(NotAllowed):
        reject_lease(actor=ada, lease_id=asked.pk, note="Mine.", now=world.now)
    approve_lease(actor=world.actor(world.approver), lease_id=asked.pk, now=world.now)
    with pytest.raises(NotAllowed):
        revoke_approval(actor=ada, lease_id=asked.pk, note="Mine.", now=world.now)
    with pytest.raises(NotVisible):
        revoke_approval(actor=world.actor(world.bob), lease_id=asked.pk, note="No.", now=world.now)


def test_who_decides_sees_what_waits_and_nobody_else_does(world: World) -> None:
    first, second = book(world, hours=9), book(world, hours=9, after=12 * HOUR)
    end_lease(actor=world.actor(world.ada), lease_id=book(world, hours=9).pk, now=world.now)
    assert list(waiting_for_decision(world.approver)) == [first, second]
    assert list(waiting_for_decision(world.ada)) == []
    assert list(waiting_for_decision(world.bob)) == []
