"""Closing a tenant: nothing new is booked, what is ahead is cancelled, what runs ends at its end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext as _

from leasing import policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.fleet import authorise
from leasing.locking import locked
from leasing.membership.invitations import open_invitations, withdraw_all
from leasing.membership.undoing import BOOKED, cancel_all, stop_waiting
from leasing.models import Lease, Person, Tenant, WaitlistEntry
from leasing.reasons import because
from leasing.states.lease import RUNNING
from leasing.transactions import atomically
from leasing.wake import wake_control


@dataclass(frozen=True)
class Closing:
    """What it means to close a tenant now."""

    tenant: Tenant
    ahead: list[Lease]
    running: list[Lease]
    waiting: int
    invitations: int
    members: int

    @property
    def seen(self) -> str:
        told = sorted(f"{lease.pk} {lease.state}" for lease in [*self.ahead, *self.running])
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


def fetch_closable(actor: Actor, slug: str) -> Tenant:
    """By an owner, or an operator. NotVisible to others."""
    person = actor.person
    found = Tenant.objects.filter(slug=slug).first()
    if found is None or person is None or not may_close(person, found):
        raise NotVisible(_("There is no such team."))
    return found


def may_close(person: Person, tenant: Tenant) -> bool:
    return policy.has_role(person, tenant, "owner") or policy.is_operator(person)


def preview_closing(*, actor: Actor, slug: str, now: datetime) -> Closing:
    """What it would mean now; changes nothing."""
    tenant = fetch_closable(actor, slug)
    leases = Lease.objects.filter(tenant=tenant).select_related("flavor", "owner")
    people: set[object] = set()
    for role in policy.ROLES:
        people |= set(policy.people_with_role(tenant, role).values_list("pk", flat=True))
    return Closing(
        tenant=tenant,
        ahead=list(leases.filter(state__in=BOOKED).order_by("starts_at", "id")),
        running=list(leases.filter(state__in=RUNNING).order_by("ends_at", "id")),
        waiting=WaitlistEntry.objects.filter(tenant=tenant, closed_at=None).count(),
        invitations=open_invitations(tenant, now=now).count(),
        members=len(people),
    )


@atomically
def close_tenant(*, actor: Actor, slug: str, typed: str, seen: str, now: datetime) -> Tenant:
    """`typed` is its name, `seen` that of the preview."""
    tenant = locked(Tenant.objects.all()).get(pk=fetch_closable(actor, slug).pk)
    if tenant.closed_at is not None:
        raise WrongState(_("The team is closed already."))
    if typed.strip() != tenant.name:
        raise InvalidRequest(_("Type the name of the team, exactly as it is."), field="typed")
    found = preview_closing(actor=actor, slug=slug, now=now)
    if found.seen != seen:
        raise WrongState(_("Something has changed since you looked."), hint=_("Look again, then confirm."))
    tenant.closed_at = now
    tenant.save(update_fields=["closed_at"])
    reason = because("team-closed")
    cancel_all(found.ahead, reason, actor=actor, now=now)
    stop_waiting(WaitlistEntry.objects.filter(tenant=tenant), reason, actor=actor, now=now)
    withdraw_all(tenant, actor=actor, now=now)
    record(
        action="tenant.close",
        actor=actor,
        subject=f"tenant:{tenant.pk}",
        tenant=tenant,
        now=now,
        cancelled=sorted(str(lease.pk) for lease in found.ahead),
        running=sorted(str(lease.pk) for lease in found.running),
    )
    transaction.on_commit(wake_control)
    return tenant


@atomically
def reopen_tenant(*, actor: Actor, slug: str, now: datetime) -> Tenant:
    """By an operator: it can be booked for again."""
    authorise(actor)
    tenant = locked(Tenant.objects.filter(slug=slug, closed_at__isnull=False)).first()
    if tenant is None:
        raise NotVisible(_("There is no such team, or it is open."))
    tenant.closed_at = None
    tenant.save(update_fields=["closed_at"])
    record(action="tenant.open", actor=actor, subject=f"tenant:{tenant.pk}", tenant=tenant, now=now)
    return tenant
