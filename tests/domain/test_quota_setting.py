"""Limits of single people: what a larger one allows, who sets and lifts them, and what counts last."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from hosts.models import GpuModel
from leasing.actors import SYSTEM
from leasing.audit.verifier import verify_log
from leasing.booking import request_lease
from leasing.errors import DomainError, InvalidRequest, NotAllowed, NotVisible
from leasing.fsck import run_checks
from leasing.membership.tenants import change_tenant
from leasing.models import Lease, Notification, Person
from leasing.policy import grant_role
from leasing.quota_requests import ask_quota, grant_quota
from leasing.quota_setting import limits_of_people, put_limit
from leasing.quotas import limit_about, set_quota
from tests.world import World

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def world() -> Any:
    made = World(gpus=4, concurrent_gpus=1)
    made.studio.longest_lease_hours = 10
    made.studio.save(update_fields=["longest_lease_hours"])
    grant_role(actor=SYSTEM, person=made.approver, tenant=made.studio, role="member", now=made.now)
    yield made
    assert run_checks(made.now) == []
    assert verify_log().problems == []


def book(world: World, who: Person, *, after: float = 1, hours: float = 2) -> Lease:
    starts_at = world.now + after * HOUR
    return request_lease(
        actor=world.actor(who), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=starts_at, ends_at=starts_at + hours * HOUR, now=world.now,
    )  # fmt: skip


def put(
    world: World,
    value: int | None,
    *,
    who: str = "",
    kind: str = "gpus",
    by: Person | None = None,
    **more: Any,
) -> None:
    put_limit(
        actor=world.actor(by or world.approver), tenant=world.studio, username=who, kind=kind,
        value=None if value is None else Decimal(value), now=world.now, **more,
    )  # fmt: skip


def ask(world: World, value: int, *, kind: str, for_all: bool, model: GpuModel | None = None) -> Any:
    return ask_quota(
        actor=world.actor(world.ada), tenant=world.studio, kind=kind, value=Decimal(value), reason="A film.",
        for_all=for_all, model=model, now=world.now,
    )  # fmt: skip


def in_force(world: World, kind: str = "gpus", person: Person | None = None) -> Decimal | None:
    limit = limit_about(world.studio, person, kind, None, now=world.now)
    return limit.value if limit else None


def test_a_longer_lease_of_ones_own_is_granted_and_then_needs_nobody(world: World) -> None:
    assert book(world, world.ada, hours=20).state == "requested"
    asked = ask(world, 24, kind="longest", for_all=False)
    grant_quota(actor=world.actor(world.approver), request_id=asked.pk, now=world.now)
    assert book(world, world.ada, after=40, hours=20).state == "scheduled"
    assert book(world, world.ada, after=90, hours=30).needs_approval_because.code == "too-long"
    assert book(world, world.approver, after=140, hours=20).needs_approval_because.code == "too-long"


def test_only_what_is_limited_and_only_more_of_it_is_asked_for(world: World) -> None:
    refused = [
        ({"value": 3, "kind": "gpus", "for_all": False}, "no such limit of your own"),
        ({"value": 90, "kind": "gpu-hours", "for_all": True}, "no such limit: there is nothing"),
        ({"value": 3, "kind": "gpus", "for_all": True, "model": world.model}, "no such limit: there is"),
        ({"value": 1, "kind": "gpus", "for_all": True}, "You have 1 already"),
        ({"value": 10, "kind": "longest", "for_all": False}, "You have 10 already"),
    ]
    for asked, words in refused:
        with pytest.raises(InvalidRequest, match=words):
            ask(world, asked.pop("value"), **asked)  # type: ignore[arg-type]
    set_quota(
        actor=SYSTEM, tenant=world.studio, person=world.ada, kind="gpus", value=Decimal(1), now=world.now
    )
    assert ask(world, 3, kind="gpus", for_all=False).person == world.ada


def test_a_persons_share_is_set_told_and_lifted(world: World) -> None:
    put(world, 9, by=_operator_set(world, 9))
    put(world, 1, who="ada")
    assert Notification.objects.filter(recipient=world.ada, kind="quota-request").count() == 1
    first = book(world, world.ada)
    second = book(world, world.ada)
    assert (first.state, second.needs_approval_because.code) == ("scheduled", "own-over-limit")
    assert book(world, world.approver).state == "scheduled"
    (listed,) = limits_of_people(world.studio, now=world.now)
    assert (listed.person, listed.kind, listed.value) == (world.ada, "gpus", Decimal(1))
    put(world, None, who="ada")
    assert limits_of_people(world.studio, now=world.now) == []
    assert book(world, world.ada).state == "scheduled"


def _operator_set(world: World, gpus: int) -> Person:
    """The team's own number, which nobody in it could raise for themselves; returns the approver."""
    change_tenant(
        actor=world.actor(world.operator), slug="studio", facts={"concurrent_gpus": gpus}, now=world.now
    )
    world.studio.refresh_from_db()
    return world.approver


def test_nobody_raises_what_limits_themselves(world: World) -> None:
    for more in ({}, {"who": "approver", "kind": "longest"}):
        with pytest.raises(NotAllowed, match="Nobody raises a limit of their own"):
            put(world, 900, **more)  # type: ignore[arg-type]
    put(world, 0)
    assert in_force(world) == 0
    with pytest.raises(NotAllowed):
        put(world, None)
    put(world, 5, who="approver", kind="longest")
    with pytest.raises(NotAllowed):
        put(world, None, who="approver", kind="longest")
    put(world, 900, who="ada", kind="longest")
    assert in_force(world, "longest", world.ada) == 900


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        ({"value": 3, "by": "ada"}, NotVisible),
        ({"value": 3, "by": "bob"}, NotVisible),
        ({"value": 3, "who": "bob"}, InvalidRequest),
        ({"value": 3, "kind": "budget"}, InvalidRequest),
        ({"value": -1, "who": "ada"}, InvalidRequest),
        ({"value": None, "who": "ada"}, InvalidRequest),
        ({"value": None, "who": "ada", "kind": "longest"}, InvalidRequest),
        ({"value": 3, "who": "ada", "until": datetime(2020, 1, 1).astimezone()}, InvalidRequest),
        ({"value": 3, "who": "ada", "kind": "ahead", "model": "a6000"}, InvalidRequest),
    ],
)
def test_what_cannot_be_set_is_refused(
    world: World, more: dict[str, Any], refusal: type[DomainError]
) -> None:
    if "by" in more:
        more = more | {"by": getattr(world, more["by"])}
    if "model" in more:
        more = more | {"model": world.model}
    with pytest.raises(refusal):
        put(world, **more)


def test_what_operators_set_last_counts_before_what_was_granted(world: World) -> None:
    asked = ask(world, 9, kind="gpus", for_all=True)
    grant_quota(actor=world.actor(world.approver), request_id=asked.pk, now=world.now)
    assert in_force(world) == 9
    _operator_set(world, 2)
    assert in_force(world) == 2
    assert [book(world, world.ada).state for _one in range(3)] == ["scheduled", "scheduled", "requested"]
