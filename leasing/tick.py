"""What is due now. Each duty looks in the database, so a missed tick costs time and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TypeVar

from django.db import DatabaseError, transaction
from django.db.models import Exists, OuterRef
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from hosts.models import Gpu, Host
from leasing import goals, holds, notices, outbox, policy
from leasing.actors import SYSTEM
from leasing.audit.sealer import seal
from leasing.errors import DomainError
from leasing.models import Hold, Lease, OutboxMessage
from leasing.states.gpu import GpuState
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.timing import INTAKE_DEADLINE, OVERRUN_STEP
from leasing.transitions import apply_lease_event

log = logging.getLogger(__name__)
T = TypeVar("T")


def tick(*, now: datetime, send: outbox.Send) -> None:
    """Do everything that is due. One failure never keeps the rest from happening."""
    for duty in DUTIES:
        _guarded(duty, now)
    _guarded(lambda now: send_receipts(now, send), now)
    _guarded(lambda now: outbox.send_due(send=send, now=now), now)


def expire_requests(now: datetime) -> None:
    """Requests on which nobody decided in time."""
    due = Lease.objects.filter(state=LeaseState.REQUESTED, decide_by__lte=now)
    _each(due, lambda lease: _apply(lease, LeaseEvent.EXPIRE, at=lease.decide_by or now, now=now))


def end_due(now: datetime) -> None:
    """Leases whose time is over, started or not."""
    due = Lease.objects.filter(ends_at__lte=now)
    running = due.filter(state__in=[LeaseState.PROVISIONING, LeaseState.ACTIVE])
    _each(running, lambda lease: _apply(lease, LeaseEvent.END, at=lease.ends_at, now=now))
    never_started = due.filter(state=LeaseState.SCHEDULED)
    reason = _("No clean GPU could be had before its end. Nothing is billed.")
    _each(
        never_started,
        lambda lease: _apply(lease, LeaseEvent.FAIL, at=lease.ends_at, now=now, reason=reason),
    )


def start_due(now: datetime) -> None:
    """Leases whose GPUs are theirs from now on."""
    begun = Hold.objects.filter(lease=OuterRef("pk"), starts_at__lte=now)
    due = (
        Lease.objects.filter(Exists(begun), state=LeaseState.SCHEDULED, ends_at__gt=now)
        .select_related("flavor__model", "owner")
        .order_by("starts_at", "requested_at")
    )
    _each(due, lambda lease: _start(lease, now=now))


def fail_overdue(now: datetime) -> None:
    """Commands that were not answered before their deadline."""
    overdue = OutboxMessage.objects.select_related("lease", "host").filter(
        answered_at__isnull=True, deadline_at__lte=now
    )
    _each(overdue, lambda message: _fail_overdue(message, now=now))


def grow_overruns(now: datetime) -> None:
    """Holds that ran out before their GPU came back: later leases move or wait."""
    _each(holds.overrunning(now=now), lambda hold: _grow(hold, now=now))


def order_intakes(now: datetime) -> None:
    """GPUs that are dirty and that nobody is cleaning."""
    dirty = Gpu.objects.filter(state=GpuState.DIRTY).select_related("host", "model").order_by("id")
    _each(dirty, lambda gpu: _order_intake(gpu, now=now))


def send_receipts(now: datetime, send: outbox.Send) -> None:
    """Tell hosts which reports are stored, so that they can forget them."""
    for host in Host.objects.filter(receipt_due=True, journal_id__isnull=False):
        Host.objects.filter(pk=host.pk).update(receipt_due=False)
        send(host, outbox.sign_receipt(host, now=now))


def seal_audit(now: datetime) -> None:
    """Give what was recorded its place in the Merkle log."""
    seal(now=now)


DUTIES: tuple[Callable[[datetime], None], ...] = (
    expire_requests,
    end_due,
    start_due,
    fail_overdue,
    grow_overruns,
    order_intakes,
    seal_audit,
)


def _start(lease: Lease, *, now: datetime) -> None:
    """Start, or move to equal GPUs that are ready, or wait and say so."""
    if not _ready(lease, now=now):
        if not holds.move(lease, now=now, only_ready=True):
            _wait(lease, now=now)
            return
        _tell_moved(lease, now=now)
    _apply(lease, LeaseEvent.START, at=now, now=now)


def _ready(lease: Lease, *, now: datetime) -> bool:
    held = list(lease.holds.select_related("gpu__host"))
    return (
        len(held) == lease.flavor.gpu_count
        and all(hold.starts_at <= now for hold in held)
        and all(holds.is_ready(hold.gpu, now=now) for hold in held)
    )


def _wait(lease: Lease, *, now: datetime) -> None:
    if lease.waiting_because or _coming(lease):
        return
    reason = _("Its GPU is out of service and no equal one is free. It starts as soon as one is.")
    lease.waiting_because = reason
    lease.save(update_fields=["waiting_because"])
    _tell(lease, "lease-waits", _("%(name)s has to wait"), reason, now=now)


def _coming(lease: Lease) -> bool:
    """All its GPUs are about to be clean: nothing that its owner needs to hear of."""
    states = [hold.gpu.state for hold in lease.holds.select_related("gpu")]
    return len(states) == lease.flavor.gpu_count and set(states) <= {
        GpuState.CLEAN,
        GpuState.DIRTY,
        GpuState.SCRUBBING,
    }


def _tell_moved(lease: Lease, *, now: datetime) -> None:
    body = _("Its GPU was not ready, so it has another one of the same kind. Nothing else changes.")
    _tell(lease, "lease-moved", _("%(name)s has moved to an equal GPU"), body, now=now)


def _tell(lease: Lease, kind: str, subject: str, body: str, *, now: datetime) -> None:
    notices.notify(
        recipient=lease.owner,
        lease=lease,
        kind=kind,
        subject=subject % {"name": lease.machine_name},
        body=body,
        now=now,
    )


def _fail_overdue(message: OutboxMessage, *, now: datetime) -> None:
    waited = _("%(host)s did not answer in time.") % {"host": message.host.name}
    if message.kind == "release":
        # The lease stays open until there is evidence; people are told once.
        message.deadline_at = None
        message.save(update_fields=["deadline_at"])
        for operator in policy.operators():
            notices.notify(
                recipient=operator,
                lease=message.lease,
                kind="host-silent",
                subject=_("%(host)s does not answer") % {"host": message.host.name},
                body=_("A lease has ended, but the host has not confirmed that its machine is gone."),
                now=now,
            )
        return
    outbox.mark_answered(message, answer=waited, now=now)
    if message.kind == "provision" and message.lease is not None:
        _apply(message.lease, LeaseEvent.FAIL, at=now, now=now, reason=waited)


def _grow(hold: Hold, *, now: datetime) -> None:
    until = now + max(OVERRUN_STEP, timedelta(seconds=hold.gpu.model.turnaround_seconds))
    for lease in holds.grow(hold, until, now=now):
        body = _("The GPU is not back from its previous lease. Your end stays; the time lost is not billed.")
        _tell(lease, "lease-delayed", _("%(name)s was moved or has to wait"), body, now=now)


def _order_intake(gpu: Gpu, *, now: datetime) -> None:
    if gpu.scrub_expected_by is not None and gpu.scrub_expected_by > now:
        return
    asked = OutboxMessage.objects.filter(
        subject=goals.gpu_subject(gpu), kind="intake", answered_at__isnull=True
    )
    if asked.exists():
        return
    gpu.generation += 1
    gpu.save(update_fields=["generation"])
    outbox.queue_command(
        host=gpu.host,
        subject=goals.gpu_subject(gpu),
        generation=gpu.generation,
        goal=goals.intake(gpu),
        now=now,
        deadline=INTAKE_DEADLINE,
    )


def _apply(lease: Lease, event: LeaseEvent, *, at: datetime, now: datetime, reason: str = "") -> None:
    apply_lease_event(lease_id=lease.pk, event=event, actor=SYSTEM, effective_at=at, now=now, reason=reason)


def _each(rows: Iterable[T], act: Callable[[T], None]) -> None:
    for row in list(rows):
        try:
            with transaction.atomic():
                act(row)
        except DomainError as error:
            log.info("Not done for %s: %s", row, error)
        except DatabaseError:
            log.exception("The database refused what is due for %s", row)


def _guarded(duty: Callable[[datetime], object], now: datetime) -> None:
    try:
        duty(now)
    except (DatabaseError, DomainError, OperationalError, OSError):
        log.exception("A duty of the tick failed")
