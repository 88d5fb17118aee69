"""The only writers of `Lease.state` and `Gpu.state`.

One transaction locks the row, checks the table, writes the state, the audit entry and the usage segment,
and lets leasing.effects queue what hosts and people must be told.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils.translation import gettext as _

from hosts.models import Gpu
from leasing import effects, metering
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.billing.credits import correct
from leasing.errors import WrongState
from leasing.locking import locked
from leasing.models import Lease
from leasing.openings.upkeep import refresh
from leasing.reasons import NONE, Reason, because
from leasing.states import gpu as gpu_table
from leasing.states import lease as lease_table
from leasing.states.gpu import GpuEvent, GpuState
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.timing import RELEASE_DEADLINE, SCRUB_DEADLINE, clamp
from leasing.transactions import atomically

# How long the host is given for what follows from the event by itself, before it is asked for.
_PATIENCE = {GpuEvent.RELEASE: RELEASE_DEADLINE, GpuEvent.SCRUB: SCRUB_DEADLINE}


class TransitionRefused(WrongState):
    """The table has no such transition; nothing was changed."""


@atomically
def apply_lease_event(
    *,
    lease_id: UUID,
    event: LeaseEvent,
    actor: Actor,
    effective_at: datetime,
    now: datetime,
    reason: Reason = NONE,
    tell_owner: bool = True,
    **detail: Any,
) -> Lease:
    """Move a lease along its table and return it. Raises TransitionRefused.

    Whoever moves several at once tells their owner of all of them together.
    """
    lease = locked(Lease.objects.select_related("tenant", "owner")).get(pk=lease_id)
    before = LeaseState(lease.state)
    after = lease_table.TRANSITIONS.get((before, event))
    if after is None:
        raise TransitionRefused(
            _("The workstation is %(state)s; this cannot be done now.") % {"state": before.value}
        )
    at = clamp(effective_at, earliest=lease.state_since, latest=now)
    _write_lease(lease, event=event, after=after, at=at, reason=reason)
    record(
        action=f"lease.{event}",
        actor=actor,
        subject=f"lease:{lease.pk}",
        tenant=lease.tenant,
        behalf=lease.owner,
        effective_at=at,
        now=now,
        **{"from": before, "to": after, "event": event, "reason": reason.in_english(), **detail},
    )
    metering.follow_lease(lease, event=event, effective_at=at)
    if event in (LeaseEvent.END, LeaseEvent.FAIL):
        correct([lease], because("stopped-earlier"), actor=actor, now=now)
    effects.after_lease_event(lease, event=event, at=at, actor=actor, now=now)
    if tell_owner:
        effects.tell_owner(lease, event=event, reason=reason, now=now)
    return lease


@atomically
def apply_gpu_event(
    *,
    gpu_id: UUID,
    event: GpuEvent,
    actor: Actor,
    effective_at: datetime,
    now: datetime,
    reason: str = "",
    **detail: Any,
) -> Gpu:
    """Move a GPU along its table and return it. A hand-over raises its tenure. Raises TransitionRefused."""
    gpu = locked(Gpu.objects.select_related("host")).get(pk=gpu_id)
    before = GpuState(gpu.state)
    after = gpu_table.TRANSITIONS.get((before, event))
    if after is None:
        raise TransitionRefused(
            _("The GPU is %(state)s; “%(event)s” is not possible now.")
            % {"state": before.value, "event": event.value}
        )
    at = clamp(effective_at, earliest=gpu.state_since, latest=now)
    gpu.state, gpu.state_since, gpu.state_reason = after, at, reason[:2000]
    if event is GpuEvent.HAND_OVER:
        gpu.tenure += 1
    gpu.scrub_expected_by = now + patience if (patience := _PATIENCE.get(event)) else None
    gpu.save(update_fields=["state", "state_since", "state_reason", "scrub_expected_by", "tenure"])
    if (before in gpu_table.BOOKABLE) != (after in gpu_table.BOOKABLE):
        refresh([gpu.pk], now, None)
    record(
        action=f"gpu.{event}",
        actor=actor,
        subject=f"gpu:{gpu.pk}",
        effective_at=at,
        now=now,
        **{
            "from": before,
            "to": after,
            "event": event,
            "reason": reason,
            "host": gpu.host.name,
            "address": gpu.address,
            "tenure": gpu.tenure,
            **detail,
        },
    )
    return gpu


def _write_lease(lease: Lease, *, event: LeaseEvent, after: LeaseState, at: datetime, reason: Reason) -> None:
    lease.state, lease.state_since = after, at
    if not lease.outcome and event in lease_table.OUTCOMES:
        lease.outcome, lease.outcome_reason = lease_table.OUTCOMES[event], reason
    if event is LeaseEvent.RUNNING:
        lease.active_at, lease.machine = at, Lease.Machine.RUNNING
    if after in (LeaseState.RELEASING, LeaseState.ENDED) and lease.stopped_at is None:
        lease.stopped_at = at
    if after in (LeaseState.RELEASING, LeaseState.ENDED):
        lease.access = None
    if event is LeaseEvent.GONE:
        lease.machine = Lease.Machine.GONE
    if event is not LeaseEvent.APPROVE:
        lease.waiting_because = NONE
    lease.save()
