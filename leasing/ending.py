"""Ending a lease before its time: what has not started is cancelled, what runs is released."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from leasing import policy
from leasing.actors import Actor
from leasing.errors import WrongState
from leasing.locking import locked
from leasing.models import Lease
from leasing.reasons import because
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.transitions import apply_lease_event

_EVENTS = {
    LeaseState.REQUESTED: LeaseEvent.CANCEL,
    LeaseState.SCHEDULED: LeaseEvent.CANCEL,
    LeaseState.PROVISIONING: LeaseEvent.CANCEL,
    LeaseState.ACTIVE: LeaseEvent.END,
}


def end_lease(*, actor: Actor, lease_id: UUID, now: datetime) -> Lease:
    """Give the workstation back now. Billing stops at once."""
    if actor.person is None:
        raise TypeError("only a person ends a lease early")
    policy.fetch_lease(actor.person, lease_id, "end")
    with transaction.atomic():
        lease = locked(Lease.objects.all()).get(pk=lease_id)
        event = _EVENTS.get(LeaseState(lease.state))
        if event is None:
            raise WrongState(_("This workstation has already ended."), hint=_("Book another one."))
        return apply_lease_event(
            lease_id=lease.pk,
            event=event,
            actor=actor,
            effective_at=now,
            now=now,
            reason=because("ended-by", person=str(actor.person)),
        )
