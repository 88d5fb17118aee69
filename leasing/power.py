"""Switching the machine of a running lease."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.utils.translation import gettext as _

from leasing import goals, policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import WrongState
from leasing.locking import locked
from leasing.models import Lease
from leasing.outbox import queue_command
from leasing.signs_of_use import note_use
from leasing.states.lease import LeaseState
from leasing.states.snapshot import SnapshotState
from leasing.timing import POWER_DEADLINE
from leasing.transactions import atomically


@atomically
def switch_power(*, actor: Actor, lease_id: UUID, action: goals.PowerAction, now: datetime) -> Lease:
    """Start, stop or restart the machine. The lease goes on, and is billed, while it is off."""
    if actor.person is None:
        raise TypeError("only a person switches a machine")
    policy.fetch_lease(actor.person, lease_id, "control")
    lease = locked(Lease.objects.select_related("host", "tenant")).get(pk=lease_id)
    if lease.state != LeaseState.ACTIVE or lease.host is None:
        raise WrongState(
            _("The workstation is not running."), hint=_("Wait until it is ready, or book another one.")
        )
    if action != "off" and lease.snapshots.filter(state=SnapshotState.TAKING).exists():
        raise WrongState(
            _("A snapshot of its disk is being taken."), hint=_("Switch it on when you have been told.")
        )
    lease.generation += 1
    lease.save(update_fields=["generation"])
    record(
        action=f"power.{action}",
        actor=actor,
        subject=goals.lease_subject(lease),
        tenant=lease.tenant,
        now=now,
    )
    note_use(lease, now=now)
    queue_command(
        host=lease.host,
        lease=lease,
        subject=goals.lease_subject(lease),
        generation=lease.generation,
        goal=goals.power(lease, action),
        now=now,
        deadline=POWER_DEADLINE,
    )
    return lease
