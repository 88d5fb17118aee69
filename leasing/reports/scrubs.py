"""From evidence to a verdict: the control plane judges a scrub itself, whatever the host concluded."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from hosts.models import Gpu, Host, ReceivedReport
from hosts.protocol import messages as m
from hosts.protocol.first_evidence import without_summary
from leasing import holds, outbox, tidings
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.goals import scrub_policy
from leasing.locking import locked
from leasing.models import Lease, ScrubRecord
from leasing.proof import evidence_digest, objections
from leasing.reasons import because
from leasing.reports.subjects import gpu_of, lease_of
from leasing.states.gpu import GpuEvent, GpuState
from leasing.states.lease import LeaseEvent, LeaseState
from leasing.timing import SCRUB_DEADLINE
from leasing.transitions import apply_gpu_event, apply_lease_event

MIB = 2**20


def begin(host: Host, report: m.Report, event: m.ScrubStarted, *, now: datetime) -> str:
    """A GPU that is scrubbed again is not clean any more, whoever has asked for that.

    A scrub that a boot has cut begins anew, and has all its time again.
    """
    gpu = gpu_of(host, event.gpu_id)
    if gpu.tenure != event.tenure:
        return f"stale: tenure {event.tenure}, now {gpu.tenure}"
    if gpu.state == GpuState.SCRUBBING:
        _expect(gpu, now=now)
        return "applied"
    at = report.occurred_at
    if gpu.state == GpuState.CLEAN:
        _distrust(gpu, host, f"A scrub was ordered on the host by {host.name}.", at=at, now=now)
    apply_gpu_event(gpu_id=gpu.pk, event=GpuEvent.SCRUB, actor=Actor.of_host(host), effective_at=at, now=now)
    return "applied"


def judge(host: Host, report: m.Report, event: m.Scrubbed, stored: ReceivedReport, *, now: datetime) -> str:
    """Record the evidence; a GPU whose evidence has no flaw is clean, any other is quarantined."""
    lease = lease_of(host, event.lease_id) if event.lease_id else None
    gpu = gpu_of(host, event.gpu_id)
    outbox.answer_goal(
        subject=report.subject,
        generation=report.generation,
        kinds=("intake",),
        answer=event.evidence.verdict,
        now=now,
    )
    if gpu.tenure != event.tenure or gpu.state != GpuState.SCRUBBING:
        return f"stale: tenure {event.tenure}, now {gpu.tenure}, {gpu.state}"
    evidence = event.evidence
    reasons = objections(
        evidence,
        scrub_policy(gpu.model),
        memory_bytes=gpu.model.memory_mib * MIB,
        expected=msgspec.convert(gpu.fingerprint, type=m.Fingerprint) if gpu.fingerprint else None,
    )
    _conclude(gpu, host, report, reasons, evidence, now=now)
    _keep(gpu, lease, host, stored, event, reasons, now=now)
    return "applied"


def give_up(host: Host, report: m.Report, event: m.GpuFailed, *, now: datetime) -> str:
    """The GPU came to no verdict at all: it is quarantined or missing, and a lease that runs on it fails."""
    gpu = gpu_of(host, event.gpu_id)
    outbox.answer_goal(
        subject=report.subject,
        generation=report.generation,
        kinds=("intake", "release"),
        answer=f"failed at {event.step}",
        now=now,
    )
    if gpu.tenure != event.tenure:
        return f"stale: tenure {event.tenure}, now {gpu.tenure}"
    reason = f"{event.step}: {event.reason}"
    take_out(gpu, host, missing=event.missing, reason=reason, at=report.occurred_at, now=now)
    return "applied"


def doubt(host: Host, report: m.Report, event: m.Ordered, *, now: datetime) -> str:
    """Somebody on the host has ordered something for a GPU: a clean one is not known to be so any more.

    A scrub's evidence is waited for; after a reset an intake is ordered.
    """
    gpu = gpu_of(host, event.gpu_id)
    record(
        action="gpu.order",
        actor=Actor.of_host(host),
        subject=f"gpu:{gpu.pk}",
        effective_at=report.occurred_at,
        now=now,
        host=host.name,
        address=gpu.address,
        order=event.action,
        by=event.by,
        reason=f"{event.action}, by {event.by}. {event.reason}".removesuffix(". "),
    )
    if gpu.tenure != event.tenure or gpu.state not in (GpuState.CLEAN, GpuState.DIRTY):
        return f"stale: tenure {event.tenure}, now {gpu.tenure}, {gpu.state}"
    if gpu.state == GpuState.CLEAN:
        reason = event.reason or f"A {event.action} was ordered on the host by {event.by}."
        gpu = _distrust(gpu, host, reason, at=report.occurred_at, now=now)
    if event.action == "scrub":
        _expect(gpu, now=now)
    return "applied"


def _expect(gpu: Gpu, *, now: datetime) -> None:
    gpu.scrub_expected_by = now + SCRUB_DEADLINE
    gpu.save(update_fields=["scrub_expected_by"])


def distrust_if_restarted(gpu: Gpu, host: Host, *, now: datetime) -> None:
    """A GPU is clean under the kernel that it was proven under: another one may reset it otherwise."""
    if gpu.state == GpuState.CLEAN and gpu.proven_kernel != host.kernel:
        proven = f"It was proven clean under the kernel {gpu.proven_kernel or 'of another version'}"
        _distrust(gpu, host, f"{proven}; its host runs {host.kernel} now.", at=now, now=now)


def _distrust(gpu: Gpu, host: Host, reason: str, *, at: datetime, now: datetime) -> Gpu:
    return apply_gpu_event(
        gpu_id=gpu.pk,
        event=GpuEvent.DISTRUST,
        actor=Actor.of_host(host),
        effective_at=at,
        now=now,
        reason=reason,
    )


def take_out(gpu: Gpu, host: Host, *, missing: bool, reason: str, at: datetime, now: datetime) -> None:
    """Quarantine a GPU, or note that it is gone; fail the lease that runs on it, which is locked first."""
    running = locked(
        Lease.objects.filter(
            holds__gpu=gpu,
            holds__tenure=gpu.tenure,
            state__in=[LeaseState.PROVISIONING, LeaseState.ACTIVE],
        )
    ).first()
    apply_gpu_event(
        gpu_id=gpu.pk,
        event=GpuEvent.VANISH if missing else GpuEvent.QUARANTINE,
        actor=Actor.of_host(host),
        effective_at=at,
        now=now,
        reason=reason,
    )
    if running is not None:
        apply_lease_event(
            lease_id=running.pk,
            event=LeaseEvent.FAIL,
            actor=Actor.of_host(host),
            effective_at=at,
            now=now,
            reason=because("gpu-failed", reason=reason),
        )
    holds.settle(gpu, now=now)
    tidings.gpu_out(gpu, reason, now=now)


def _keep(
    gpu: Gpu,
    lease: Lease | None,
    host: Host,
    stored: ReceivedReport,
    event: m.Scrubbed,
    reasons: list[str],
    *,
    now: datetime,
) -> None:
    """The evidence, and in the audit log what it is known by."""
    evidence = without_summary(event.evidence)
    verdict: dict[str, Any] = {
        "passed": not reasons,
        "reasons": reasons,
        "simulated": event.evidence.simulated,
        "finished_at": event.evidence.finished_at,
    }
    entry = record(
        action="gpu.evidence",
        actor=Actor.of_host(host),
        subject=f"gpu:{gpu.pk}",
        tenant=lease.tenant if lease else None,
        now=now,
        lease=str(lease.pk) if lease else None,
        host=host.name,
        address=gpu.address,
        model=gpu.model.slug,
        tenure=event.tenure,
        report=stored.sequence,
        evidence_sha256=evidence_digest(evidence),
        **verdict,
    )
    ScrubRecord.objects.create(
        gpu=gpu,
        lease=lease,
        tenure=event.tenure,
        report=stored,
        entry=entry,
        evidence=evidence,
        recorded_at=now,
        **verdict,
    )


def _conclude(
    gpu: Gpu, host: Host, report: m.Report, reasons: list[str], evidence: m.ScrubEvidence, *, now: datetime
) -> None:
    if reasons:
        take_out(gpu, host, missing=False, reason=" ".join(reasons)[:2000], at=report.occurred_at, now=now)
        return
    gpu.fingerprint = msgspec.to_builtins(evidence.fingerprint_after)
    gpu.proven_kernel = evidence.kernel
    gpu.save(update_fields=["fingerprint", "proven_kernel"])
    gpu = apply_gpu_event(
        gpu_id=gpu.pk,
        event=GpuEvent.PASS,
        actor=Actor.of_host(host),
        effective_at=report.occurred_at,
        now=now,
        scrub_report=report.sequence,
    )
    holds.settle(gpu, now=now)
    distrust_if_restarted(gpu, host, now=now)
