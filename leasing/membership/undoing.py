"""Taking back what has not begun: bookings are cancelled, and nobody waits any more."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db.models import QuerySet

from leasing import holds, offering
from leasing.actors import Actor
from leasing.locking import locked
from leasing.models import Lease, WaitlistEntry
from leasing.reasons import Reason
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.transitions import apply_lease_event

BOOKED = (LeaseState.REQUESTED, LeaseState.SCHEDULED)


def cancel_all(leases: Iterable[Lease], reason: Reason, *, actor: Actor, now: datetime) -> None:
    """Leases that have not begun. The caller has locked their tenant."""
    keys = [one.pk for one in leases]
    ahead = list(locked(Lease.objects.filter(pk__in=keys, state__in=BOOKED)).order_by("id"))
    holds.lock_blocks_of(ahead)
    for lease in ahead:
        apply_lease_event(
            lease_id=lease.pk,
            event=LeaseEvent.CANCEL,
            actor=actor,
            effective_at=now,
            now=now,
            reason=reason,
        )


def stop_waiting(
    entries: QuerySet[WaitlistEntry], reason: Reason, *, actor: Actor, now: datetime
) -> list[WaitlistEntry]:
    """Open ones, with what was offered for them. The caller has locked their tenant."""
    waiting = entries.filter(closed_at=None)
    offers = Lease.objects.filter(entry__in=waiting, state=LeaseState.OFFERED).select_related("flavor__model")
    for offer in locked(offers).order_by("id"):
        offering.withdraw(offer, reason, actor=actor, now=now)
    found = list(locked(waiting.select_related("tenant", "owner", "flavor__model")).order_by("id"))
    for entry in found:
        offering.close(entry, WaitlistEntry.Outcome.WITHDRAWN, reason, actor=actor, now=now)
    return found
