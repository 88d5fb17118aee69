"""What each report changes. Stale ones change nothing and stay as evidence; each answer is the verdict."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from hosts.models import Host, HostCheckUp, ReceivedReport
from hosts.protocol import messages as m
from hosts.protocol.homes import HomeRead, HomeRemoved
from hosts.protocol.snapshots import SnapshotFailed, SnapshotRemoved, SnapshotTaken
from leasing import changing, guests, homes, outbox, reading, slices
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.imaging import copies
from leasing.locking import locked
from leasing.models import ConsoleSession, Lease, LeaseStep, OutboxMessage
from leasing.reasons import because
from leasing.reports import copied, drift, inventory, scrubs
from leasing.reports.subjects import NotTheirs, gpu_of, lease_of
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.transitions import TransitionRefused, apply_lease_event

APPLIED = "applied"


def apply_report(host: Host, report: m.Report, stored: ReceivedReport, *, now: datetime) -> str:
    """Let one report take effect, and say what became of it."""
    try:
        return _HANDLERS[type(report.event)](host, report, report.event, stored, now)
    except NotTheirs as error:
        record(
            action="report.refuse",
            actor=Actor.of_host(host),
            subject=report.subject,
            now=now,
            reason=str(error),
            sequence=report.sequence,
        )
        return f"refused: {error}"
    except TransitionRefused as error:
        return f"stale: {error}"


Handler = Callable[[Host, m.Report, Any, ReceivedReport, datetime], str]


def _accepted(host: Host, report: m.Report, event: m.Accepted, stored: ReceivedReport, now: datetime) -> str:
    message = _message(host, report)
    if message is None:
        return "stale: no such command"
    outbox.mark_accepted(message, now=now)
    if message.kind == "update" and message.answered_at is None:
        outbox.mark_answered(message, answer="taken over", now=now)
        goal = msgspec.json.decode(message.goal, type=m.Update)
        changing.confirm_extension(_lock_lease(host, message), goal.ends_at, now=now)
    return APPLIED


def _refused(host: Host, report: m.Report, event: m.Refused, stored: ReceivedReport, now: datetime) -> str:
    record(
        action="command.refuse",
        actor=Actor.of_host(host),
        subject=report.subject,
        now=now,
        reason=event.reason,
        command=str(report.command_id or ""),
    )
    message = _message(host, report)
    if message is None or not event.final:
        return APPLIED
    if message.accepted_at is not None:
        return "stale: it was accepted before"
    if message.attempts > 1:
        # It may be an earlier sending, come too late, that was refused: only one that was alone settles it.
        outbox.send_anew(message, now=now)
        return APPLIED
    lease = lease_of(host, message.lease_id) if message.lease_id else None
    if message.kind == "update" and lease is not None and lease.state == LeaseState.PROVISIONING:
        # It came before the order to build the machine: once more, then.
        outbox.send_anew(message, now=now)
        return APPLIED
    outbox.mark_answered(message, answer=event.reason, now=now)
    if message.kind == "update":
        changing.fail_extension(_lock_lease(host, message), now=now)
    if message.kind == "snapshot":
        copied.note_refusal(host, message, event.reason, at=report.occurred_at, now=now)
    if message.kind == "read-home":
        reading.note_refused(host, message, event.reason, at=report.occurred_at, now=now)
    if message.kind in ("divide", "undivide"):
        slices.note_refusal(host, message, event.reason, now=now)
    if message.kind == "provision" and lease is not None:
        _fail(lease.pk, host, event.reason, report, now)
    return APPLIED


def _step(host: Host, report: m.Report, event: m.StepReport, stored: ReceivedReport, now: datetime) -> str:
    lease = lease_of(host, event.lease_id) if event.lease_id else None
    gpu = gpu_of(host, event.gpu_id) if event.gpu_id else None
    if lease is None:
        return APPLIED
    at = min(report.occurred_at, now)
    LeaseStep.objects.update_or_create(
        lease=lease,
        gpu=gpu,
        plan=event.plan,
        name=event.step,
        defaults={
            "index": event.index,
            "total": event.total,
            "state": event.state,
            "attempt": event.attempt,
            "detail": event.detail,
            "finished_at": None if event.state == "started" else at,
        },
        create_defaults={
            "index": event.index,
            "total": event.total,
            "state": event.state,
            "attempt": event.attempt,
            "detail": event.detail,
            "started_at": at,
            "finished_at": None if event.state == "started" else at,
        },
    )
    return APPLIED


def _running(
    host: Host, report: m.Report, event: m.MachineRunning, stored: ReceivedReport, now: datetime
) -> str:
    lease = lease_of(host, event.lease_id)
    _answer(report, ("provision", "power"), "running", now)
    access = None if event.access is None else msgspec.to_builtins(event.access)
    if lease.state != LeaseState.ACTIVE:
        apply_lease_event(
            lease_id=lease.pk,
            event=LeaseEvent.RUNNING,
            actor=Actor.of_host(host),
            effective_at=report.occurred_at,
            now=now,
        )
    Lease.objects.filter(pk=lease.pk).update(machine=Lease.Machine.RUNNING, access=access)
    homes.note_made(lease, at=report.occurred_at, now=now)
    guests.forget_answers(lease)
    return APPLIED


def _stopped(
    host: Host, report: m.Report, event: m.MachineStopped, stored: ReceivedReport, now: datetime
) -> str:
    lease = lease_of(host, event.lease_id)
    _answer(report, ("power",), f"stopped: {event.cause}", now)
    if lease.state != LeaseState.ACTIVE:
        return f"stale: the lease is {lease.state}"
    record(
        action="machine.stop",
        actor=Actor.of_host(host),
        subject=f"lease:{lease.pk}",
        tenant=lease.tenant,
        effective_at=report.occurred_at,
        now=now,
        cause=event.cause,
    )
    return _set_machine(lease, Lease.Machine.OFF)


def _gone(host: Host, report: m.Report, event: m.MachineGone, stored: ReceivedReport, now: datetime) -> str:
    lease = lease_of(host, event.lease_id)
    _answer(report, ("release",), "gone", now)
    apply_lease_event(
        lease_id=lease.pk,
        event=LeaseEvent.GONE,
        actor=Actor.of_host(host),
        effective_at=report.occurred_at,
        now=now,
    )
    return APPLIED


def _provision_failed(
    host: Host, report: m.Report, event: m.ProvisionFailed, stored: ReceivedReport, now: datetime
) -> str:
    lease = lease_of(host, event.lease_id)
    _answer(report, ("provision", "power"), f"failed at {event.step}: {event.reason}", now)
    _fail(lease.pk, host, f"{event.step}: {event.reason}", report, now)
    return APPLIED


def _scrub_started(
    host: Host, report: m.Report, event: m.ScrubStarted, stored: ReceivedReport, now: datetime
) -> str:
    return scrubs.begin(host, report, event, now=now)


def _scrubbed(host: Host, report: m.Report, event: m.Scrubbed, stored: ReceivedReport, now: datetime) -> str:
    return scrubs.judge(host, report, event, stored, now=now)


def _gpu_failed(
    host: Host, report: m.Report, event: m.GpuFailed, stored: ReceivedReport, now: datetime
) -> str:
    return scrubs.give_up(host, report, event, now=now)


def _console_closed(
    host: Host, report: m.Report, event: m.ConsoleClosed, stored: ReceivedReport, now: datetime
) -> str:
    sessions = ConsoleSession.objects.filter(pk=event.session_id, lease__host=host)
    sessions.filter(closed_at__isnull=True).update(closed_at=now)
    message = _message(host, report)
    if message is not None:
        outbox.mark_answered(message, answer=event.reason, now=now)
    return APPLIED


def _inventory(
    host: Host, report: m.Report, event: m.Inventory, stored: ReceivedReport, now: datetime
) -> str:
    _answer(report, ("inspect",), "reported", now)
    return inventory.take(host, event, at=report.occurred_at, now=now)


def _ordered(host: Host, report: m.Report, event: m.Ordered, stored: ReceivedReport, now: datetime) -> str:
    return scrubs.doubt(host, report, event, now=now)


def _gpu_reset(host: Host, report: m.Report, event: m.GpuReset, stored: ReceivedReport, now: datetime) -> str:
    gpu = gpu_of(host, event.gpu_id)
    record(
        action="gpu.reset",
        actor=Actor.of_host(host),
        subject=f"gpu:{gpu.pk}",
        effective_at=report.occurred_at,
        now=now,
        host=host.name,
        address=gpu.address,
        reason=f"{event.record.method} ({event.record.scope})",
        attempts=event.record.attempts,
    )
    return APPLIED


def _divided(host: Host, report: m.Report, event: m.Divided, stored: ReceivedReport, now: datetime) -> str:
    return slices.confirm_divided(host, report, event, now=now)


def _undivided(
    host: Host, report: m.Report, event: m.Undivided, stored: ReceivedReport, now: datetime
) -> str:
    return slices.confirm_undivided(host, report, event, now=now)


def _division_failed(
    host: Host, report: m.Report, event: m.DivisionFailed, stored: ReceivedReport, now: datetime
) -> str:
    return slices.note_failure(host, report, event, now=now)


def _checked_up(host: Host, report: m.Report, event: m.CheckUp, stored: ReceivedReport, now: datetime) -> str:
    drift.record_new(host, event, at=report.occurred_at, now=now)
    HostCheckUp.objects.update_or_create(
        host=host,
        defaults={
            "taken_at": report.occurred_at,
            "simulated": event.simulated,
            "checks": msgspec.to_builtins(event.checks),
            "failed": sum(check.verdict == "fail" for check in event.checks),
            "warned": sum(check.verdict == "warn" for check in event.checks),
            "left_out": event.left_out,
        },
    )
    return APPLIED


def _copies(host: Host, report: m.Report, event: m.ImageCopies, stored: ReceivedReport, now: datetime) -> str:
    _answer(report, ("images",), "told", now)
    copies.take_report(host, event, now=now)
    return APPLIED


def _guests(host: Host, report: m.Report, event: m.Guests, stored: ReceivedReport, now: datetime) -> str:
    return guests.take_guests(host, event.guests, at=report.occurred_at, now=now)


def _guest_errors(
    host: Host, report: m.Report, event: m.GuestErrors, stored: ReceivedReport, now: datetime
) -> str:
    return guests.record_errors(host, event, at=report.occurred_at, now=now)


def _home_removed(
    host: Host, report: m.Report, event: HomeRemoved, stored: ReceivedReport, now: datetime
) -> str:
    _answer(report, ("remove-home",), "removed", now)
    known = homes.note_removed(host, event.volume_id, at=report.occurred_at, now=now)
    return APPLIED if known else "stale: it was not ordered"


def _home_read(host: Host, report: m.Report, event: HomeRead, stored: ReceivedReport, now: datetime) -> str:
    known = reading.note_read(host, event.reading_id, event.reason, at=report.occurred_at, now=now)
    return APPLIED if known else "stale: it was over"


_HANDLERS: dict[type[m.Event], Handler] = {
    m.Accepted: _accepted,
    m.Refused: _refused,
    m.StepReport: _step,
    m.MachineRunning: _running,
    m.MachineStopped: _stopped,
    m.MachineGone: _gone,
    m.ProvisionFailed: _provision_failed,
    m.ScrubStarted: _scrub_started,
    m.Scrubbed: _scrubbed,
    m.GpuFailed: _gpu_failed,
    m.ConsoleClosed: _console_closed,
    m.Ordered: _ordered,
    m.GpuReset: _gpu_reset,
    m.Divided: _divided,
    m.Undivided: _undivided,
    m.DivisionFailed: _division_failed,
    m.Inventory: _inventory,
    m.CheckUp: _checked_up,
    m.ImageCopies: _copies,
    m.Guests: _guests,
    m.GuestErrors: _guest_errors,
    HomeRemoved: _home_removed,
    HomeRead: _home_read,
    SnapshotTaken: copied.taken,
    SnapshotFailed: copied.failed,
    SnapshotRemoved: copied.removed,
}


def _lock_lease(host: Host, message: OutboxMessage) -> Lease:
    leases = Lease.objects.select_related("tenant", "owner", "host", "flavor__model")
    return locked(leases).get(commands=message, host=host)


def _message(host: Host, report: m.Report) -> OutboxMessage | None:
    if report.command_id is None:
        return None
    return OutboxMessage.objects.filter(pk=report.command_id, host=host).first()


def _answer(report: m.Report, kinds: tuple[str, ...], answer: str, now: datetime) -> None:
    outbox.answer_goal(
        subject=report.subject, generation=report.generation, kinds=kinds, answer=answer, now=now
    )


def _set_machine(lease: Lease, machine: Lease.Machine) -> str:
    Lease.objects.filter(pk=lease.pk).update(machine=machine)
    return APPLIED


def _fail(lease_id: UUID, host: Host, reason: str, report: m.Report, now: datetime) -> None:
    apply_lease_event(
        lease_id=lease_id,
        event=LeaseEvent.FAIL,
        actor=Actor.of_host(host),
        effective_at=report.occurred_at,
        now=now,
        reason=because("host-failed", reason=reason),
    )
