"""Members of a tenant and their roles: who may change them, and that there is always an owner."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from django.utils.translation import gettext as _

from leasing import policy
from leasing.actors import Actor
from leasing.errors import InvalidRequest, NotAllowed, NotVisible, WrongState
from leasing.locking import locked
from leasing.models import Lease, Person, Tenant, TenantPersonPermission, WaitlistEntry
from leasing.policy import ROLES, Role
from leasing.states.lease import HOLDING
from leasing.transactions import atomically


@dataclass(frozen=True)
class Member:
    """A person, their roles in the tenant in their order, and those of them that come through a group."""

    person: Person
    roles: tuple[Role, ...]
    through_group: frozenset[Role]

    @property
    def is_plain(self) -> bool:
        """A member and nothing else: approvers may remove them."""
        return self.roles == ("member",)


def fetch_team(person: Person, slug: str) -> Tenant:
    """The tenant, if the person says who belongs to it. NotVisible if not."""
    found = policy.tenants_with_role(person, "owner", "approver").filter(slug=slug).first()
    if found is None:
        raise NotVisible(_("There is no such team."))
    return found


def members_of(tenant: Tenant) -> list[Member]:
    """Everybody who has a role, by name."""
    direct = roles_in(tenant)
    held: dict[Person, set[Role]] = {}
    for role in ROLES:
        for person in policy.people_with_role(tenant, role):
            held.setdefault(person, set()).add(role)
    return [
        Member(
            person,
            tuple(role for role in ROLES if role in roles),
            frozenset(roles - direct.get(person.username, set())),
        )
        for person, roles in sorted(held.items(), key=lambda item: str(item[0]).casefold())
    ]


def roles_in(tenant: Tenant) -> dict[str, set[Role]]:
    """By user name: the roles that people have themselves, not through a group."""
    found: dict[str, set[Role]] = {}
    rows = TenantPersonPermission.objects.filter(content_object=tenant)
    for name, codename in rows.values_list("user__username", "permission__codename"):
        found.setdefault(name, set()).add(cast(Role, codename))
    return found


@atomically
def add_member(*, actor: Actor, slug: str, username: str, roles: Collection[str], now: datetime) -> Person:
    """Somebody who has an account, by their user name."""
    tenant = fetch_team(_person(actor), slug)
    person = Person.objects.filter(username=username.strip(), is_active=True).first()
    if person is None:
        raise InvalidRequest(
            _("Nobody has this user name."), hint=_("Invite them by e-mail instead."), field="username"
        )
    set_roles(
        actor=actor,
        slug=slug,
        person=person,
        roles={*roles_in(tenant).get(person.username, ()), *roles},
        now=now,
    )
    return person


@atomically
def set_roles(*, actor: Actor, slug: str, person: Person, roles: Collection[str], now: datetime) -> None:
    """Exactly these roles. Who would lose the role of a member with something booked has to leave instead."""
    who = _person(actor)
    tenant = locked(Tenant.objects.all()).get(pk=fetch_team(who, slug).pk)
    wanted = checked_roles(roles)
    before = roles_in(tenant).get(person.username, set())
    require_may_change(who, tenant, before ^ wanted)
    if "owner" in before - wanted:
        require_other_owner(tenant, person)
    if "member" in before - wanted and _has_something(person, tenant):
        raise WrongState(
            _("%(person)s has workstations booked, or waits for one.") % {"person": person},
            hint=_("Remove them from the team: that says what becomes of these."),
        )
    change_roles(actor, tenant, person, before, wanted, now=now)


def change_roles(
    actor: Actor, tenant: Tenant, person: Person, before: set[Role], wanted: set[Role], *, now: datetime
) -> None:
    for role in ROLES:
        if role in wanted - before:
            policy.grant_role(actor=actor, person=person, tenant=tenant, role=role, now=now)
        elif role in before - wanted:
            policy.revoke_role(actor=actor, person=person, tenant=tenant, role=role, now=now)


def checked_roles(roles: Collection[str]) -> set[Role]:
    """At least one, all known."""
    wanted = {role for role in ROLES if role in roles}
    if not wanted or len(wanted) != len(set(roles)):
        raise InvalidRequest(_("Choose at least one role."), field="roles")
    return wanted


def require_may_change(person: Person, tenant: Tenant, roles: Collection[Role]) -> None:
    """Owners give and take every role, approvers that of a member."""
    if not set(roles) <= {"member"} and not policy.has_role(person, tenant, "owner"):
        raise NotAllowed(_("Only owners of the team give and take roles beyond that of a member."))


def require_other_owner(tenant: Tenant, person: Person) -> None:
    """The caller has locked the tenant."""
    if not policy.people_with_role(tenant, "owner").exclude(pk=person.pk).exists():
        raise WrongState(
            _("%(person)s is the last owner of the team.") % {"person": person},
            hint=_("Make somebody else an owner first."),
        )


def _has_something(person: Person, tenant: Tenant) -> bool:
    booked = Lease.objects.filter(owner=person, tenant=tenant, state__in=HOLDING)
    waits = WaitlistEntry.objects.filter(owner=person, tenant=tenant, closed_at=None)
    return booked.exists() or waits.exists()


def _person(actor: Actor) -> Person:
    if actor.person is None:
        raise TypeError("only a person says who belongs to a tenant")
    return actor.person
