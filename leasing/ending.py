"""Ending a lease before its time: what has not started is cancelled, what runs is released."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.utils.translation import gettext as _

from leasing import holds, policy, snapshots
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import WrongState
from leasing.locking import locked
from leasing.models import Lease, Series
from leasing.reasons import because
from leasing.states.lease import AHEAD, LeaseEvent, LeaseState
from leasing.transactions import atomically
from leasing.transitions import apply_lease_event

_EVENTS = {
    LeaseState.REQUESTED: LeaseEvent.CANCEL,
    LeaseState.SCHEDULED: LeaseEvent.CANCEL,
    LeaseState.PROVISIONING: LeaseEvent.CANCEL,
    LeaseState.ACTIVE: LeaseEvent.END,
}


@atomically
def end_lease(*, actor: Actor, lease_id: UUID, save: bool = False, now: datetime) -> Lease:
    """Give the workstation back now. Billing stops at once.

    `save`: its owner wants a snapshot of its disk, which is taken before the disk is destroyed.
    """
    if actor.person is None:
        raise TypeError("only a person ends a lease early")
    policy.fetch_lease(actor.person, lease_id, "end")
    if save:
        snapshots.want(actor, lease_id, now=now)
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


def end_series(*, actor: Actor, series_id: UUID, now: datetime) -> int:
    """Cancel everything of a series that has not begun; how many leases that were."""
    if actor.person is None:
        raise TypeError("only a person ends a series")
    series = policy.fetch_series(actor.person, series_id, "end")
    return _cancel_ahead(actor, series, now)


@atomically
def _cancel_ahead(actor: Actor, series: Series, now: datetime) -> int:
    ahead = list(locked(series.leases.filter(state__in=AHEAD)).order_by("id"))
    if not ahead:
        raise WrongState(
            _("Nothing of this series is still ahead."), hint=_("End what runs on its own page.")
        )
    holds.lock_blocks_of(ahead)
    for lease in ahead:
        apply_lease_event(
            lease_id=lease.pk,
            event=LeaseEvent.CANCEL,
            actor=actor,
            effective_at=now,
            now=now,
            reason=because("ended-by", person=str(actor.person)),
        )
    record(
        action="series.cancel",
        actor=actor,
        subject=f"series:{series.pk}",
        tenant=series.tenant,
        now=now,
        leases=[str(lease.pk) for lease in ahead],
    )
    return len(ahead)
