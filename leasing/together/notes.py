"""Notes for the next approver: from who asks, and from approvers to each other."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from leasing import policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotAllowed, WrongState
from leasing.locking import locked
from leasing.models import Lease, LeaseNote, Person
from leasing.models.together import LONGEST_NOTE
from leasing.states.lease import LeaseState
from leasing.transactions import atomically

MOST_NOTES = 30
NOTED = frozenset({LeaseState.REQUESTED, LeaseState.SCHEDULED})


@atomically
def write_note(*, actor: Actor, lease_id: UUID, text: str, now: datetime) -> LeaseNote:
    """By whose request it is, or by an approver of its tenant, while it has not begun."""
    if actor.person is None:
        raise TypeError("only a person writes a note")
    text = " ".join(text.split())
    if not 0 < len(text) <= LONGEST_NOTE:
        raise InvalidRequest(_("A note has 1 to 500 characters."), field="text")
    lease = policy.fetch_lease(actor.person, lease_id, "view")
    if not may_write(actor.person, lease):
        raise NotAllowed(_("Only who asks for it, and approvers of the team, leave notes."))
    lease = locked(Lease.objects.select_related("tenant")).get(pk=lease_id)
    if lease.state not in NOTED:
        raise WrongState(_("Nobody decides on it any more."), hint=_("Reload the page."))
    if lease.notes.count() >= MOST_NOTES:
        raise WrongState(_("There are as many notes as can be."), hint=_("Decide on it, or cancel it."))
    note = LeaseNote.objects.create(lease=lease, author=actor.person, text=text, written_at=now)
    record(
        action="lease.note",
        actor=actor,
        subject=f"lease:{lease.pk}",
        tenant=lease.tenant,
        now=now,
        note=note.pk,
    )
    return note


def notes_for(person: Person, lease: Lease) -> QuerySet[LeaseNote]:
    """All of them for approvers; their own for whose request it is; none for others."""
    notes = lease.notes.select_related("author")
    if lease.owner_id == person.pk:
        return notes.filter(author=person)
    if policy.has_role(person, lease.tenant, "approver") or policy.is_auditor(person):
        return notes
    return notes.none()


def may_write(person: Person, lease: Lease) -> bool:
    return policy.may(person, lease, "use") or policy.may(person, lease, "decide")
