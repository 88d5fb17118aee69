"""Quotas in force, requests for more, and who decides."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from leasing.actors import SYSTEM
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.errors import InvalidRequest, NotAllowed, NotVisible, WrongState
from leasing.fsck import run_checks
from leasing.models import AuditEntry, Lease, Notification, QuotaRequest
from leasing.policy import grant_role
from leasing.quota_requests import (
    ask_quota,
    decline_quota,
    grant_quota,
    visible_requests,
    withdraw_quota_request,
)
from leasing.quotas import limits_in_force, set_quota, standing
from tests.world import World

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def world() -> World:
    return World(gpus=2, concurrent_gpus=1)


def book(world: World, *, hours: int = 2, after: timedelta = HOUR) -> Lease:
    return request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=world.now + after, ends_at=world.now + after + hours * HOUR, now=world.now,
    )  # fmt: skip


def ask(world: World, value: int = 2, **more: object) -> QuotaRequest:
    facts = {"kind": "gpus", "reason": "A big scene.", "for_all": True, **more}
    return ask_quota(
        actor=world.actor(world.ada),
        tenant=world.studio,
        value=Decimal(value),
        now=world.now,
        **facts,  # type: ignore[arg-type]
    )


def team_gpus(world: World) -> Decimal:
    return next(
        limit.value
        for limit in limits_in_force(world.studio, world.ada, now=world.now)
        if limit.name == "gpus"
    )


def test_more_is_asked_for_granted_until_a_date_and_lapses_by_itself(world: World) -> None:
    book(world)
    assert book(world).state == "requested"
    asked = ask(world)
    assert Notification.objects.filter(recipient=world.approver, kind="quota-request").count() == 1
    until = world.now + timedelta(days=7)
    grant_quota(actor=world.actor(world.approver), request_id=asked.pk, until=until, now=world.now)
    assert team_gpus(world) == 2
    assert Notification.objects.filter(recipient=world.ada, kind="quota-request").count() == 1
    world.now = until
    assert team_gpus(world) == 1
    actions = AuditEntry.objects.filter(action__startswith="quota.").values_list("action", flat=True)
    assert sorted(actions) == ["quota.ask", "quota.grant", "quota.set"]
    assert run_checks(world.now) == []


def test_nobody_decides_on_their_own_request(world: World) -> None:
    grant_role(actor=SYSTEM, person=world.ada, tenant=world.studio, role="approver", now=world.now)
    asked = ask(world)
    for decide in (grant_quota, decline_quota):
        with pytest.raises(NotAllowed):
            decide(actor=world.actor(world.ada), request_id=asked.pk, note="mine", now=world.now)
    with pytest.raises(NotVisible):
        grant_quota(actor=world.actor(world.bob), request_id=asked.pk, now=world.now)
    assert list(visible_requests(world.bob)) == []


def test_a_decision_is_made_once_and_declining_needs_words(world: World) -> None:
    asked, approver = ask(world), world.actor(world.approver)
    with pytest.raises(InvalidRequest):
        decline_quota(actor=approver, request_id=asked.pk, note=" ", now=world.now)
    decline_quota(actor=approver, request_id=asked.pk, note="Not this month.", now=world.now)
    with pytest.raises(WrongState):
        grant_quota(actor=approver, request_id=asked.pk, now=world.now)
    assert team_gpus(world) == 1
    mine = ask(world)
    withdraw_quota_request(actor=world.actor(world.ada), request_id=mine.pk, now=world.now)
    with pytest.raises(WrongState):
        grant_quota(actor=approver, request_id=mine.pk, now=world.now)


def test_a_lowered_quota_cancels_nothing(world: World) -> None:
    lease = book(world)
    set_quota(actor=SYSTEM, tenant=world.studio, kind="gpus", value=Decimal(0), now=world.now)
    lease.refresh_from_db()
    assert lease.state == "scheduled"
    later = book(world, after=9 * HOUR)
    assert (later.state, later.needs_approval_because.code) == ("requested", "over-limit")
    assert run_checks(world.now) == []


def test_hours_and_money_count_what_is_booked_and_not_what_was_given_back(world: World) -> None:
    set_quota(actor=SYSTEM, tenant=world.studio, kind="gpu-hours", value=Decimal(5), now=world.now)
    set_quota(
        actor=SYSTEM, tenant=world.studio, kind="budget", value=Decimal(30), currency="EUR", now=world.now
    )
    first = book(world, hours=3)
    second = book(world, hours=3, after=9 * HOUR)
    stand = {one.limit.name: one for one in standing(world.studio, world.ada, now=world.now)}
    assert {name: (one.used, one.month) for name, one in stand.items()} == {
        "gpus": (Decimal(0), ""),
        "longest": (None, ""),
        "ahead": (None, ""),
        "gpu-hours": (Decimal(6), "2026-03"),
        "budget": (Decimal("22.8"), "2026-03"),
    }
    during = standing(world.studio, world.ada, now=first.starts_at + HOUR)
    assert next(one.used for one in during if one.limit.name == "gpus") == 1
    assert (first.state, second.state) == ("scheduled", "requested")
    assert second.needs_approval_because.code == "over-gpu-hours"
    for lease in (first, second):
        end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    assert book(world, hours=5).state == "scheduled"
    assert run_checks(world.now) == []


def test_a_persons_limit_is_theirs_alone_and_the_newest_counts(world: World) -> None:
    for value in (9, 1):
        set_quota(
            actor=SYSTEM,
            tenant=world.studio,
            kind="longest",
            value=Decimal(value),
            person=world.ada,
            now=world.now,
        )
    assert book(world, hours=2).needs_approval_because.code == "too-long"
    names = [
        sorted(limit.name for limit in limits_in_force(world.studio, person, now=world.now))
        for person in (world.ada, world.approver)
    ]
    assert names == [["ahead", "gpus", "longest own"], ["ahead", "gpus", "longest"]]


def test_a_host_that_is_wholly_free_is_left_whole(world: World) -> None:
    """Whichever host the first lease went to, the next ones join it while it can serve."""
    world.admit(world.enrol("hv2"), 2)
    hosts = [book(world).holds.get().gpu.host_id for _one in range(4)]
    assert hosts[0] == hosts[1]
    assert hosts[2] == hosts[3] != hosts[0]
