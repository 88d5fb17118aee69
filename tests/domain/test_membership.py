"""Who belongs to a tenant: roles, invitations, leaving, and the end of the tenant."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.core import mail
from knox.models import AuthToken

from leasing.actors import SYSTEM
from leasing.changing import OutsideLimits, change_end
from leasing.console import open_console, still_admitted
from leasing.errors import InvalidRequest, NotAllowed, NotVisible, WrongState
from leasing.feeds.keeping import create_feed
from leasing.membership import closing, invitations, leaving, members
from leasing.models import AuditEntry, CalendarFeed, Lease, Notification, Person
from leasing.notices import send_due_notices
from leasing.policy import grant_role, has_role
from leasing.quotas import set_quota
from tests.domain.test_together import all_is_well, book, cleo, hand_over, running, share, world
from tests.world import World, person

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
__all__ = ["world"]


@pytest.fixture
def chief(world: World) -> Person:
    """The owner of the tenant."""
    found = person("chief")
    grant_role(actor=SYSTEM, person=found, tenant=world.studio, role="owner", now=world.now)
    return found


def removed(world: World, who: Person, target: str = "ada", **heirs: Lease) -> leaving.Leaving:
    actor = world.actor(who)
    seen = leaving.preview_leaving(actor=actor, slug="studio", username=target).seen
    named = {lease.pk: name for name, lease in heirs.items()}
    return leaving.leave_team(
        actor=actor, slug="studio", username=target, heirs=named, seen=seen, now=world.now
    )


def test_owners_give_every_role_approvers_that_of_a_member_and_nobody_takes_the_last_owner(
    world: World, chief: Person
) -> None:
    def set_roles(who: Person, target: Person, *roles: str) -> None:
        members.set_roles(actor=world.actor(who), slug="studio", person=target, roles=roles, now=world.now)

    members.add_member(
        actor=world.actor(world.approver), slug="studio", username="bob", roles=["member"], now=world.now
    )
    assert has_role(world.bob, world.studio, "member")
    for attempt in (("approver",), ("member", "owner"), ("finance",)):
        with pytest.raises(NotAllowed):
            set_roles(world.approver, world.bob, *attempt)
    for outsider in (world.ada, world.finance, world.operator):
        with pytest.raises(NotVisible):
            set_roles(outsider, world.bob, "member", "owner")
    with pytest.raises(WrongState, match="last owner"):
        set_roles(chief, chief, "member")
    with pytest.raises(WrongState, match="last owner"):
        removed(world, chief, "chief")
    set_roles(chief, world.bob, "owner", "finance")
    set_roles(world.bob, chief, "approver")
    assert {one.person.username: one.roles for one in members.members_of(world.studio)}["bob"] == (
        "finance",
        "owner",
    )
    with pytest.raises(InvalidRequest):
        set_roles(world.bob, chief)


def test_who_has_something_booked_leaves_and_is_not_just_demoted(world: World, chief: Person) -> None:
    book(world, world.ada, after=HOUR)
    with pytest.raises(WrongState, match="booked"):
        members.set_roles(
            actor=world.actor(chief), slug="studio", person=world.ada, roles=["finance"], now=world.now
        )


def test_leaving_says_what_it_does_and_does_it(world: World, chief: Person) -> None:
    runs = running(world)
    first, second = (book(world, world.ada, after=10 * HOUR) for _each in range(2))
    offered = hand_over(world, second)
    console = open_console(actor=world.actor(world.ada), lease_id=runs.pk, session_key="k", now=world.now)
    AuthToken.objects.create(world.ada)
    create_feed(actor=world.actor(world.ada), name="mine", now=world.now)
    found = leaving.preview_leaving(actor=world.actor(chief), slug="studio", username="ada")
    assert (len(found.ahead), len(found.running), found.consoles, found.offers) == (2, 1, 1, 1)
    assert (found.ends_access, found.tokens, found.feeds) == (True, 1, 1)
    removed(world, chief, cleo=first)
    for lease in (runs, first, second, offered):
        lease.refresh_from_db()
    assert (first.owner, first.state) == (cleo(world), "scheduled")
    assert (second.state, second.outcome, offered.state) == ("ended", "cancelled", "withdrawn")
    assert (runs.owner, runs.state, still_admitted(console.session_id)) == (world.ada, "active", False)
    assert not AuthToken.objects.exists()
    assert not CalendarFeed.objects.exists()
    assert {"token.revoke", "feed.revoke", "member.leave", "role.revoke"} <= set(
        AuditEntry.objects.filter(actor="chief").values_list("action", flat=True)
    )
    assert Notification.objects.filter(recipient=world.ada, kind="member-left").exists()
    world.tick(after=4 * HOUR)
    runs.refresh_from_db()
    assert runs.state == "releasing"
    all_is_well(world)


def test_all_or_nothing_and_only_what_was_looked_at(world: World, chief: Person) -> None:
    lease = book(world, world.ada, after=HOUR)
    set_quota(
        actor=SYSTEM,
        tenant=world.studio,
        person=cleo(world),
        kind="gpu-hours",
        value=Decimal(1),
        now=world.now,
    )
    with pytest.raises(OutsideLimits):
        removed(world, chief, cleo=lease)
    lease.refresh_from_db()
    assert (lease.state, has_role(world.ada, world.studio, "member")) == ("scheduled", True)
    actor, seen = (
        world.actor(chief),
        leaving.preview_leaving(actor=world.actor(chief), slug="studio", username="ada").seen,
    )
    book(world, world.ada, after=20 * HOUR)
    with pytest.raises(WrongState, match="changed"):
        leaving.leave_team(actor=actor, slug="studio", username="ada", heirs={}, seen=seen, now=world.now)
    assert has_role(world.ada, world.studio, "member")


def test_who_stays_in_another_tenant_keeps_their_tokens(world: World) -> None:
    grant_role(actor=SYSTEM, person=world.ada, tenant=world.research, role="member", now=world.now)
    AuthToken.objects.create(world.ada)
    shared = running(world)
    share(world, shared)
    found = removed(world, world.ada)
    assert (found.ends_access, AuthToken.objects.count()) == (False, 1)
    assert not has_role(world.ada, world.studio, "member")
    all_is_well(world)


def test_an_invitation_is_good_once_and_is_kept_as_a_hash(world: World, chief: Person) -> None:
    _made, link = invitations.invite(
        actor=world.actor(chief), slug="studio", email="dora@example.org", roles=["member", "finance"],
        days=7, now=world.now,
    )  # fmt: skip
    secret = link.split("/")[-2]
    assert send_due_notices(now=world.now) >= 1
    (letter,) = [one for one in mail.outbox if one.to == ["dora@example.org"]]
    assert link in letter.body
    assert not Notification.objects.filter(body__contains=secret).exists()
    assert not AuditEntry.objects.filter(text__contains=secret).exists()
    for name, password in (("ada", "correct-horse-battery"), ("dora", "1234")):
        with pytest.raises(InvalidRequest):
            invitations.open_account(
                actor=SYSTEM, secret=secret, username=name, name="Dora", password=password, now=world.now
            )
    dora = invitations.open_account(
        actor=SYSTEM, secret=secret, username="dora", name="Dora Diaz", password="correct-horse-battery",
        now=world.now,
    )  # fmt: skip
    invitations.accept_invitation(actor=world.actor(dora), secret=secret, now=world.now)
    assert members.roles_in(world.studio)["dora"] == {"member", "finance"}
    with pytest.raises(NotVisible):
        invitations.accept_invitation(actor=world.actor(world.bob), secret=secret, now=world.now)


def test_invitations_run_out_and_are_withdrawn(world: World, chief: Person) -> None:
    def invited(days: int = 1, who: Person = chief, *roles: str) -> tuple[str, UUID]:
        made, link = invitations.invite(
            actor=world.actor(who), slug="studio", email="eve@example.org", roles=roles or ["member"],
            days=days, now=world.now,
        )  # fmt: skip
        return link.split("/")[-2], made.pk

    with pytest.raises(NotAllowed):
        invited(1, world.approver, "owner")
    late, _pk = invited()
    gone, pk = invited()
    invitations.withdraw_invitation(
        actor=world.actor(chief),
        slug="studio",
        invitation_id=pk,
        now=world.now,
    )
    assert Notification.objects.filter(kind=f"invitation-{pk}").get().body == ""
    for secret, at in ((gone, world.now), (late, world.now + timedelta(days=1))):
        with pytest.raises(NotVisible):
            invitations.fetch_invitation(secret, now=at)


def test_a_tenant_closes_by_its_name_and_nothing_new_is_booked(world: World, chief: Person) -> None:
    runs, ahead = running(world), book(world, world.ada, after=10 * HOUR)
    actor = world.actor(chief)
    seen = closing.preview_closing(actor=actor, slug="studio", now=world.now).seen
    for typed, told in (("studio", seen), (world.studio.name, "x")):
        with pytest.raises((InvalidRequest, WrongState)):
            closing.close_tenant(actor=actor, slug="studio", typed=typed, seen=told, now=world.now)
    with pytest.raises(NotVisible):
        closing.preview_closing(actor=world.actor(world.approver), slug="studio", now=world.now)
    closing.close_tenant(actor=actor, slug="studio", typed=world.studio.name, seen=seen, now=world.now)
    ahead.refresh_from_db()
    assert (ahead.state, ahead.outcome) == ("ended", "cancelled")
    with pytest.raises(WrongState, match="closed"):
        book(world, world.ada, after=HOUR)
    with pytest.raises(WrongState, match="closed"):
        change_end(actor=world.actor(world.ada), lease_id=runs.pk, ends_at=runs.ends_at + HOUR, now=world.now)
    with pytest.raises(NotVisible):
        closing.reopen_tenant(actor=actor, slug="studio", now=world.now)
    closing.reopen_tenant(actor=world.actor(world.operator), slug="studio", now=world.now)
    book(world, world.ada, after=HOUR)
    all_is_well(world)
