"""Sharing a lease that runs with colleagues of its tenant, until it is withdrawn, they leave, or it ends."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from leasing import notices, policy
from leasing.actors import Actor
from leasing.addresses import of_lease
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.locking import locked
from leasing.models import Lease, Person, Share, Tenant
from leasing.reasons import filled
from leasing.states.lease import RUNNING
from leasing.together.closing import close_shares, note_share
from leasing.transactions import atomically

MOST_SHARES = 20


@atomically
def share_lease(*, actor: Actor, lease_id: UUID, username: str, level: str, now: datetime) -> Share:
    """Let a colleague see it, or use it; with another level it takes the place of what they had."""
    if actor.person is None:
        raise TypeError("only a person shares a lease")
    if level not in Share.Level.values:
        raise InvalidRequest(_("It is shared to be seen, or to be used."), field="level")
    policy.fetch_lease(actor.person, lease_id, "use")
    lease = locked(Lease.objects.select_related("tenant", "owner", "flavor")).get(pk=lease_id)
    if lease.state not in RUNNING:
        raise WrongState(_("Only a workstation that runs is shared."), hint=_("Hand it over instead."))
    person = colleague(lease.tenant, username, besides=actor.person)
    before = lease.shares.filter(closed_at=None, person=person).first()
    if before is not None and before.level == level:
        return before
    if before is None and lease.shares.filter(closed_at=None).count() >= MOST_SHARES:
        raise WrongState(_("It is shared with as many people as can be."), hint=_("Withdraw one of them."))
    close_shares(lease.shares.filter(person=person), actor=actor, now=now)
    share = Share.objects.create(
        lease=lease, person=person, level=level, shared_by=actor.person, shared_at=now
    )
    note_share("lease.share", actor, share, now=now, level=level)
    notices.notify(
        recipient=person,
        lease=lease,
        kind="lease-shared",
        subject=filled(
            gettext_lazy("%(person)s shares %(name)s with you"), person=lease.owner, name=_name(lease)
        ),
        body=gettext_lazy("You can see it as long as it runs.")
        if level == Share.Level.VIEW
        else gettext_lazy("You can use its console and its power switch as long as it runs."),
        now=now,
        link=of_lease(lease),
    )
    return share


@atomically
def withdraw_share(*, actor: Actor, share_id: int, now: datetime) -> Lease:
    """By whose it is, or by the colleague themselves; a console that they have open closes."""
    if actor.person is None:
        raise TypeError("only a person withdraws a share")
    share = Share.objects.filter(pk=share_id, closed_at=None).select_related("lease").first()
    if share is None or not _may_withdraw(actor.person, share):
        raise NotVisible(_("There is no such share."))
    lease = locked(Lease.objects.select_related("tenant")).get(pk=share.lease_id)
    close_shares(lease.shares.filter(pk=share_id), actor=actor, now=now)
    return lease


def colleague(tenant: Tenant, username: str, *, besides: Person) -> Person:
    """A member of the tenant by their user name. Raises InvalidRequest."""
    members = policy.people_with_role(tenant, "member").exclude(pk=besides.pk)
    found = members.filter(username=username.strip()).first()
    if found is None:
        raise InvalidRequest(
            _("Nobody else in the team has this user name."), hint=_("Choose a colleague."), field="person"
        )
    return found


def _may_withdraw(person: Person, share: Share) -> bool:
    if share.person_id == person.pk:
        return True
    visible = policy.visible_leases(person).filter(pk=share.lease_id).first()
    return visible is not None and policy.may(person, visible, "use")


def _name(lease: Lease) -> str:
    return f"{lease.flavor.name} {lease.machine_name}"
