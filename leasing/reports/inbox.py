"""The inbox of reports. Each is stored exactly as signed and applied in its journal's order."""

from __future__ import annotations

import logging
from datetime import datetime
from uuid import UUID

from django.db import DataError, IntegrityError, transaction

from hosts.models import Gpu, Host, ReceivedReport
from hosts.protocol.codec import MessageError, ReportHeader, decode_report, decode_report_header
from hosts.protocol.messages import Inventory, Report
from hosts.protocol.signing import ForgedMessage, Verifier, parse_envelope
from leasing import slices
from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record, record_sparingly
from leasing.fleet import inspect_host
from leasing.keys import report_verifier, stored_report_verifier
from leasing.locking import locked
from leasing.outbox import resend_unfinished
from leasing.reports.apply import apply_report
from leasing.states.gpu import GpuEvent, GpuState
from leasing.transactions import atomically
from leasing.transitions import apply_gpu_event

log = logging.getLogger(__name__)

_REFUSALS = "queue:reports"


def receive_report(envelope: str, *, now: datetime) -> ReceivedReport | None:
    """Verify, store and apply a report. None if it was refused, was known already, or its journal is over."""
    try:
        host, report = _open(envelope)
    except (ForgedMessage, MessageError) as error:
        refuse_report(str(error), now=now)
        return None
    kept = _store(host, report, envelope, now=now)
    if kept is None:
        return None
    stored, is_new = kept
    if is_new or stored.applied_at is None:
        apply_pending(host, now=now)
    return stored if is_new else None


@atomically
def _store(
    host: Host, report: ReportHeader, envelope: str, *, now: datetime
) -> tuple[ReceivedReport, bool] | None:
    """The report as kept, and whether it is new; None if the host or its journal is trusted no more."""
    host = locked(Host.objects.all()).get(pk=host.pk)
    if not _still_trusted(host, envelope):
        return None
    host.last_seen_at, host.receipt_due = now, True
    host.save(update_fields=["last_seen_at", "receipt_due"])
    if not _adopt_journal(host, report, now=now):
        return None
    return ReceivedReport.objects.get_or_create(
        host=host,
        journal_id=report.journal_id,
        sequence=report.sequence,
        defaults={"envelope": envelope, "received_at": now},
    )


def refuse_report(reason: str, *, now: datetime) -> None:
    """A message on the reports queue that is none: it changes nothing but the audit log, within measure.

    Whoever reaches the queue can send such messages without end; the log tells that it happened.
    """
    log.warning("Refused a report: %s", reason)
    record_sparingly(action="report.refuse", actor=SYSTEM, subject=_REFUSALS, now=now, reason=reason[:500])


def apply_pending(host: Host, *, now: datetime) -> None:
    """Apply what is in sequence, one transaction each. A gap waits until the host has sent it again."""
    while _apply_next(host.pk, now=now):
        pass


@atomically
def _apply_next(host_id: UUID, *, now: datetime) -> bool:
    """Whether there is another one behind it."""
    host = locked(Host.objects.all()).get(pk=host_id)
    if host.journal_id is None:
        return False
    following = host.applied_sequence + 1
    near = ReceivedReport.objects.filter(
        host=host, journal_id=host.journal_id, sequence__in=[following, following + 1]
    )
    arrived = [*near.order_by("sequence")]
    if not arrived or arrived[0].sequence != following:
        return False
    _settle(host, arrived[0], now=now)
    return len(arrived) > 1


def _settle(host: Host, stored: ReceivedReport, *, now: datetime) -> None:
    stored.verdict = _apply(host, stored, now=now)[:300]
    stored.applied_at = now
    stored.save(update_fields=["verdict", "applied_at"])
    host.applied_sequence = stored.sequence
    host.save(update_fields=["applied_sequence", "protocol"])


def _apply(host: Host, stored: ReceivedReport, *, now: datetime) -> str:
    """A report that cannot be read or stored is refused: those behind it must not wait for it for ever."""
    try:
        with transaction.atomic():
            report = decode_report(_verifier_of(host, stored.envelope).open(stored.envelope))
            host.protocol = _protocol_of(host, report)
            return apply_report(host, report, stored, now=now)
    except (MessageError, DataError, IntegrityError, ValueError) as error:
        log.warning("A report of %s could not be applied: %s", host, error)
        reason = str(error).replace("\x00", "")[:500]
        record(
            action="report.refuse",
            actor=Actor.of_host(host),
            subject=f"host:{host.pk}",
            now=now,
            reason=reason,
            sequence=stored.sequence,
        )
        return f"refused: {reason}"


def _verifier_of(host: Host, envelope: str) -> Verifier:
    """Former keys are looked up only for what one of them has signed."""
    return report_verifier(host) if _has_its_key(host, envelope) else stored_report_verifier(host)


def _protocol_of(host: Host, report: Report) -> int:
    """The version to speak with the host: the highest heard since its worker has started."""
    started = isinstance(report.event, Inventory) and report.event.restarted
    return report.protocol if started else max(host.protocol, report.protocol)


def _open(envelope: str) -> tuple[Host, ReportHeader]:
    claimed = parse_envelope(envelope).key_id
    known = Host.objects.filter(retired_at=None)
    host = known.filter(key_id=claimed[:40].replace("\x00", "")).first()
    if host is None:
        raise ForgedMessage(f"No host has the key {claimed[:40]!r}.")
    header = decode_report_header(report_verifier(host).open(envelope))
    if header.host != host.account:
        raise ForgedMessage(f"{host.name} spoke for {header.host}.")
    return host, header


def _still_trusted(host: Host, envelope: str) -> bool:
    """Whether it has not been retired, or been given other keys, since the envelope was opened."""
    return host.retired_at is None and _has_its_key(host, envelope)


def _has_its_key(host: Host, envelope: str) -> bool:
    return parse_envelope(envelope).key_id == host.key_id


def _adopt_journal(host: Host, report: ReportHeader, *, now: datetime) -> bool:
    """Whether the report belongs to the host's present journal. A new one means that it lost its memory."""
    if host.journal_id == report.journal_id:
        return True
    known = ReceivedReport.objects.filter(host=host, journal_id=report.journal_id).exists()
    if known:
        log.warning("%s sent a report of a journal that is over.", host.name)
        return False
    lost, host.journal_id, host.applied_sequence = host.journal_id, report.journal_id, 0
    host.save(update_fields=["journal_id", "applied_sequence"])
    if lost is not None:
        distrust_gpus(host, reason="The host has lost its journal.", now=now)
        slices.tell_again(host, now=now)
        inspect_host(host, now=now)
        resend_unfinished(host, now=now)
    record(
        action="host.journal",
        actor=Actor.of_host(host),
        subject=f"host:{host.pk}",
        now=now,
        journal=str(report.journal_id),
        lost=str(lost or ""),
    )
    return True


def distrust_gpus(host: Host, *, reason: str, now: datetime) -> None:
    """No GPU of the host counts as clean, or as being cleaned. Inside the caller's transaction."""
    for gpu in Gpu.objects.filter(host=host, state__in=[GpuState.CLEAN, GpuState.SCRUBBING]).order_by("id"):
        apply_gpu_event(
            gpu_id=gpu.pk,
            event=GpuEvent.DISTRUST,
            actor=SYSTEM,
            effective_at=now,
            now=now,
            reason=reason,
        )
    # Nor is it known any more whether the host cleans the others by itself.
    Gpu.objects.filter(host=host, state=GpuState.DIRTY).update(scrub_expected_by=None)
