"""What follows from a lease's transition, in the same transaction: commands, hand-over, holds, notices."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import F
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from leasing import goals, holds, homes, notices, snapshots
from leasing.actors import Actor
from leasing.addresses import of_lease
from leasing.console import close_consoles
from leasing.models import Extension, Lease
from leasing.outbox import close_commands, queue_command, supersede_updates
from leasing.reasons import Reason, filled
from leasing.states.gpu import GpuEvent
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.timing import PROVISION_DEADLINE, RELEASE_DEADLINE, SAVING_PATIENCE, UPDATE_DEADLINE
from leasing.together.closing import close_with_lease


def after_lease_event(lease: Lease, *, event: LeaseEvent, at: datetime, actor: Actor, now: datetime) -> None:
    """Queue and write everything that this transition entails; its owner is told by `tell_owner`."""
    if lease.state in (LeaseState.RELEASING, LeaseState.ENDED):
        close_with_lease(lease, now=now)
    if event is LeaseEvent.START:
        _hand_over(lease, at=at, actor=actor, now=now)
        _tell_host(lease, goal=goals.provision(lease), now=now, deadline=PROVISION_DEADLINE)
    elif lease.state == LeaseState.RELEASING:
        holds.shrink(lease, now=now)
        _drop_pending_extension(lease, now=now)
        close_consoles(lease, now=now)
        snapshots.order_wanted(lease, at=at, now=now)
        order_release(lease, now=now)
    elif event is LeaseEvent.GONE:
        _take_back(lease, at=at, actor=actor, now=now)
        homes.detach(lease, at=at, now=now)
        snapshots.settle(lease, at=at, now=now)
        close_commands(lease, answer="gone", now=now)
    elif lease.state == LeaseState.ENDED:
        holds.drop(lease)


def order_release(lease: Lease, *, now: datetime) -> None:
    """Tell the host to remove the machine; whatever it was told about the lease before is superseded."""
    goal = goals.release(lease)
    patience = RELEASE_DEADLINE + SAVING_PATIENCE if goal.save else RELEASE_DEADLINE
    _tell_host(lease, goal=goal, now=now, deadline=patience)


def _drop_pending_extension(lease: Lease, *, now: datetime) -> None:
    pending = lease.extensions.filter(state=Extension.State.PENDING)
    lease.terms.filter(extension__in=pending).delete()
    pending.update(state=Extension.State.FAILED, state_since=now)


def tell_end(lease: Lease, *, ends_at: datetime | None = None, now: datetime) -> None:
    """Tell the host when the lease ends; what it was told about that before is superseded."""
    assert lease.host is not None  # noqa: S101 - a lease on a host has one since its hand-over
    supersede_updates(lease, now=now)
    queue_command(
        host=lease.host,
        lease=lease,
        subject=goals.lease_subject(lease),
        generation=lease.generation,
        goal=goals.update(lease, ends_at or lease.ends_at),
        now=now,
        deadline=UPDATE_DEADLINE,
    )


def _hand_over(lease: Lease, *, at: datetime, actor: Actor, now: datetime) -> None:
    from leasing.transitions import apply_gpu_event

    for hold in lease.holds.order_by("gpu_id"):
        gpu = apply_gpu_event(
            gpu_id=hold.gpu_id,
            event=GpuEvent.HAND_OVER,
            actor=actor,
            effective_at=at,
            now=now,
            lease=str(lease.pk),
        )
        hold.tenure = gpu.tenure
        hold.save(update_fields=["tenure"])
        lease.host = gpu.host
    lease.save(update_fields=["host"])
    homes.attach(lease, at=at, now=now)


def _take_back(lease: Lease, *, at: datetime, actor: Actor, now: datetime) -> None:
    from leasing.transitions import apply_gpu_event

    for hold in lease.holds.filter(gpu__state="leased", tenure=F("gpu__tenure")).order_by("gpu_id"):
        apply_gpu_event(
            gpu_id=hold.gpu_id,
            event=GpuEvent.RELEASE,
            actor=actor,
            effective_at=at,
            now=now,
            lease=str(lease.pk),
        )


def _tell_host(lease: Lease, *, goal: goals.LeaseGoal, now: datetime, deadline: timedelta) -> None:
    lease.generation += 1
    lease.save(update_fields=["generation"])
    assert lease.host is not None  # noqa: S101 - a lease on a host has one since its hand-over
    queue_command(
        host=lease.host,
        lease=lease,
        subject=goals.lease_subject(lease),
        generation=lease.generation,
        goal=goal,
        now=now,
        deadline=deadline,
    )


_SUBJECTS: dict[LeaseEvent, str | Promise] = {
    LeaseEvent.APPROVE: _("%(name)s is approved"),
    LeaseEvent.REJECT: _("%(name)s was not approved"),
    LeaseEvent.REVOKE: _("The approval of %(name)s was taken back"),
    LeaseEvent.EXPIRE: _("Nobody decided on %(name)s in time"),
    LeaseEvent.FAIL: _("%(name)s has failed"),
    LeaseEvent.RUNNING: _("%(name)s is running"),
    LeaseEvent.GONE: _("%(name)s has ended"),
}


def tell_owner(lease: Lease, *, event: LeaseEvent, reason: Reason, now: datetime) -> None:
    """If it is something that the owner cannot know by themselves."""
    if event not in _SUBJECTS:
        return
    body = reason or lease.outcome_reason or _("See its page for what happened.")
    notices.notify(
        recipient=lease.owner,
        lease=lease,
        kind=f"lease-{event}",
        subject=filled(_SUBJECTS[event], name=lease.machine_name),
        body=body,
        now=now,
        link=of_lease(lease),
    )
