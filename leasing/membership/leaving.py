"""Leaving a tenant: what becomes of somebody's leases is shown, chosen, and then done in one transaction.

What is ahead is cancelled or handed over, what runs ends at its end or is handed over. They leave the line,
and what was open to them in this tenant closes; with their last role, their tokens and feeds end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from knox.models import AuthToken

from leasing import notices, policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.console import close_consoles_of
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.locking import locked
from leasing.membership import members
from leasing.membership.undoing import BOOKED, cancel_all, stop_waiting
from leasing.models import CalendarFeed, ConsoleSession, HandOver, Lease, Person, Share, Tenant, WaitlistEntry
from leasing.reasons import because, filled
from leasing.states.lease import RUNNING
from leasing.together.closing import close_offers, close_shares
from leasing.together.handing_over import give_lease
from leasing.together.sharing import colleague
from leasing.transactions import atomically
from leasing.wake import wake_control


@dataclass(frozen=True)
class Leaving:
    """What it means that a person leaves a tenant. `ends_access`: it is their last role anywhere."""

    tenant: Tenant
    person: Person
    ahead: list[Lease]
    running: list[Lease]
    waiting: int
    consoles: int
    shares: int
    offers: int
    ends_access: bool
    tokens: int
    feeds: int

    @property
    def seen(self) -> str:
        """Changes with what would be done."""
        told = sorted(f"{lease.pk} {lease.state}" for lease in [*self.ahead, *self.running])
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


def fetch_leaver(actor: Actor, slug: str, username: str) -> tuple[Tenant, Person]:
    """Oneself, or somebody of a tenant that one leads. Raises NotVisible or NotAllowed."""
    if actor.person is None:
        raise TypeError("only a person says who belongs to a tenant")
    person = Person.objects.filter(username=username).first()
    theirs = Tenant.objects.none() if person is None else policy.tenants_with_role(person, *policy.ROLES)
    tenant = theirs.filter(slug=slug).first()
    itself = person == actor.person
    if tenant is None or person is None or not (itself or _leads(actor.person, tenant)):
        raise NotVisible(_("There is no such person in the team."))
    if not itself:
        held = members.roles_in(tenant).get(person.username, set())
        members.require_may_change(actor.person, tenant, held)
    return tenant, person


def preview_leaving(*, actor: Actor, slug: str, username: str) -> Leaving:
    """What it would mean now; changes nothing."""
    return _leaving(*fetch_leaver(actor, slug, username))


@atomically
def leave_team(
    *, actor: Actor, slug: str, username: str, heirs: Mapping[UUID, str], seen: str, now: datetime
) -> Leaving:
    """`heirs` are the user names of who takes which lease; `seen` is that of the preview.

    What nobody takes is cancelled, or ends at its end. Raises WrongState if something has changed.
    """
    tenant, person = fetch_leaver(actor, slug, username)
    tenant = locked(Tenant.objects.all()).get(pk=tenant.pk)
    takers = {lease_id: colleague(tenant, name, besides=person) for lease_id, name in heirs.items() if name}
    people = {person.pk, *(one.pk for one in takers.values())}
    list(locked(Person.objects.filter(pk__in=people)).order_by("pk"))
    found = _leaving(tenant, person)
    if found.seen != seen:
        raise WrongState(_("Something has changed since you looked."), hint=_("Look again, then confirm."))
    if set(takers) - {lease.pk for lease in [*found.ahead, *found.running]}:
        raise InvalidRequest(_("One of these workstations is not theirs."), field="heirs")
    before = members.roles_in(tenant).get(person.username, set())
    if "owner" in before:
        members.require_other_owner(tenant, person)
    for lease_id in sorted(takers):
        give_lease(actor=actor, lease_id=lease_id, taker=takers[lease_id], now=now)
    left = [lease for lease in found.ahead if lease.pk not in takers]
    cancel_all(left, because("left-team", person=str(person)), actor=actor, now=now)
    waiting = WaitlistEntry.objects.filter(owner=person, tenant=tenant)
    stop_waiting(waiting, because("wait-no-member"), actor=actor, now=now)
    _close_access(found, actor=actor, now=now)
    members.change_roles(actor, tenant, person, before, set(), now=now)
    if policy.tenants_with_role(person, *policy.ROLES).filter(pk=tenant.pk).exists():
        raise WrongState(
            _("%(person)s belongs to the team through a group.") % {"person": person},
            hint=_("Whoever runs Leasehold takes them out of it."),
        )
    _tell(found, set(takers), left, actor=actor, now=now)
    transaction.on_commit(wake_control)
    return found


def _tell(found: Leaving, given: set[UUID], left: list[Lease], *, actor: Actor, now: datetime) -> None:
    person, tenant = found.person, found.tenant
    running = [str(lease.pk) for lease in found.running if lease.pk not in given]
    record(
        action="member.leave",
        actor=actor,
        subject=f"person:{person.pk}",
        tenant=tenant,
        behalf=person,
        now=now,
        person=person.username,
        handed_over=sorted(map(str, given)),
        cancelled=sorted(str(lease.pk) for lease in left),
        running=sorted(running),
    )
    words = gettext_lazy(
        "Of your workstations %(cancelled)d are cancelled, %(given)d are handed over, and %(running)d run"
        " until their end."
    )
    notices.notify(
        recipient=person,
        kind="member-left",
        subject=filled(gettext_lazy("You are no longer in the team %(team)s"), team=tenant.name),
        body=filled(words, cancelled=len(left), given=len(given), running=len(running)),
        now=now,
    )


def _leaving(tenant: Tenant, person: Person) -> Leaving:
    leases = Lease.objects.filter(owner=person, tenant=tenant).select_related("flavor", "owner")
    elsewhere = policy.tenants_with_role(person, *policy.ROLES).exclude(pk=tenant.pk)
    last = not (elsewhere.exists() or person.user_permissions.exists() or person.groups.exists())
    theirs = HandOver.objects.filter(state=HandOver.State.OPEN, lease__tenant=tenant)
    return Leaving(
        tenant=tenant,
        person=person,
        ahead=list(leases.filter(state__in=BOOKED).order_by("starts_at", "id")),
        running=list(leases.filter(state__in=RUNNING).order_by("ends_at", "id")),
        waiting=WaitlistEntry.objects.filter(owner=person, tenant=tenant, closed_at=None).count(),
        consoles=_consoles(tenant, person).count(),
        shares=Share.objects.filter(person=person, lease__tenant=tenant, closed_at=None).count(),
        offers=(theirs.filter(taker=person) | theirs.filter(giver=person)).count(),
        ends_access=last,
        tokens=AuthToken.objects.filter(user=person).count() if last else 0,
        feeds=CalendarFeed.objects.filter(person=person).count() if last else 0,
    )


def _close_access(found: Leaving, *, actor: Actor, now: datetime) -> None:
    """What was open to them in the tenant; and, with their last role, what programs may do as them."""
    tenant, person = found.tenant, found.person
    close_shares(Share.objects.filter(person=person, lease__tenant=tenant), actor=actor, now=now)
    offers = HandOver.objects.filter(lease__tenant=tenant)
    close_offers(offers.filter(taker=person) | offers.filter(giver=person), actor=actor, now=now)
    for session in _consoles(tenant, person).select_related("lease"):
        close_consoles_of(session.lease, person, now=now)
    if not found.ends_access:
        return
    for token in AuthToken.objects.filter(user=person):
        _note(actor, person, "token.revoke", now=now, token=token.token_key)
        token.delete()
    for feed in CalendarFeed.objects.filter(person=person):
        model = feed.model.slug if feed.model else None
        _note(actor, person, "feed.revoke", now=now, feed=str(feed.pk), name=feed.name, model=model)
        feed.delete()


def _consoles(tenant: Tenant, person: Person) -> QuerySet[ConsoleSession]:
    return ConsoleSession.objects.filter(person=person, lease__tenant=tenant, closed_at=None)


def _note(actor: Actor, person: Person, action: str, *, now: datetime, **facts: Any) -> None:
    record(action=action, actor=actor, subject=f"person:{person.pk}", now=now, behalf=person, **facts)


def _leads(person: Person, tenant: Tenant) -> bool:
    return policy.tenants_with_role(person, "owner", "approver").filter(pk=tenant.pk).exists()
