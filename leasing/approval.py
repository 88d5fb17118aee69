"""Deciding on requests. Nobody decides on their own."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from leasing import policy
from leasing.actors import Actor
from leasing.errors import InvalidRequest, WrongState
from leasing.locking import locked
from leasing.models import Lease
from leasing.reasons import said
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.transitions import apply_lease_event
from leasing.wake import wake_control


def approve_lease(*, actor: Actor, lease_id: UUID, note: str = "", now: datetime) -> Lease:
    """Schedule a request. One for now begins now and keeps its end."""
    with transaction.atomic():
        lease = _decide(actor, lease_id, note=note, now=now)
        if lease.ends_at <= now:
            raise WrongState(_("The time that was asked for is over."), hint=_("Ask for another."))
        lease = apply_lease_event(
            lease_id=lease.pk,
            event=LeaseEvent.APPROVE,
            actor=actor,
            effective_at=now,
            now=now,
            reason=said(note),
        )
        transaction.on_commit(wake_control)
    return lease


def reject_lease(*, actor: Actor, lease_id: UUID, note: str, now: datetime) -> Lease:
    """Decline a request; the reason is for the person who asked."""
    if not note.strip():
        raise InvalidRequest(_("Say why, so that the person knows what to change."), field="note")
    with transaction.atomic():
        lease = _decide(actor, lease_id, note=note, now=now)
        return apply_lease_event(
            lease_id=lease.pk,
            event=LeaseEvent.REJECT,
            actor=actor,
            effective_at=now,
            now=now,
            reason=said(note),
        )


def _decide(actor: Actor, lease_id: UUID, *, note: str, now: datetime) -> Lease:
    if actor.person is None:
        raise TypeError("only a person decides")
    policy.fetch_lease(actor.person, lease_id, "decide")
    lease = locked(Lease.objects.all()).get(pk=lease_id)
    if lease.state != LeaseState.REQUESTED:
        raise WrongState(
            _("This request has already been decided or has lapsed."), hint=_("Reload the page.")
        )
    lease.decided_by, lease.decided_at, lease.decision_note = actor.person, now, note
    lease.save(update_fields=["decided_by", "decided_at", "decision_note"])
    return lease
