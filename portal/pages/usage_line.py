"""One line of usage and what it rests on: who asked and approved, machine, GPUs, evidence, entries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from hosts.models import Gpu
from leasing import policy
from leasing.errors import NotVisible
from leasing.metering import billed_seconds, segment_amount
from leasing.models import AuditEntry, Lease, Person, ScrubRecord
from leasing.proof import evidence_digest
from leasing.usage import lease_cost
from portal.middleware import PersonRequest

LARGEST = 2**63 - 1
# The entries that a line rests on, in the order in which they happen.
TOLD = (
    "lease.request", "lease.approve", "lease.start", "lease.running", "lease.end", "lease.fail", "lease.gone",
)  # fmt: skip
TOLD_OF_KEPT = (
    "home.create", "home.made", "home.remove", "home.gone", "snapshot.create", "snapshot.taken",
    "snapshot.remove", "snapshot.gone",
)  # fmt: skip


@dataclass(frozen=True)
class Cleaned:
    """A GPU that the lease had, and the evidence of what came after; None if it is not there yet."""

    gpu: Gpu
    scrub: ScrubRecord | None
    digest: str


@login_required
@require_safe
def usage_line(request: PersonRequest, number: int) -> HttpResponse:
    now, person = timezone.now(), request.user
    if not policy.invoiced_tenants(person).exists():
        raise NotVisible(_("There is nothing here."))
    segments = policy.visible_usage(person).select_related(
        "lease__image",
        "lease__host",
        "lease__decided_by",
        "volume__pool",
        "snapshot__pool",
        "snapshot__lease",
    )
    segment = segments.filter(pk=min(number, LARGEST)).first()
    if segment is None:
        raise NotVisible(_("There is no such line."))
    context: dict[str, Any] = {
        "line": segment,
        "seconds": billed_seconds(segment, now),
        "amount": segment_amount(segment, now),
        "reads_fleet": policy.reads_fleet(person),
    }
    if segment.lease is not None:
        context |= _of_lease(person, segment.lease, now)
    elif segment.kept is not None:
        subject = f"{'home' if segment.volume else 'snapshot'}:{segment.kept.pk}"
        entries = _entries(person, subject, TOLD_OF_KEPT)
        context |= {"kept": segment.kept, "subject": subject, "entries": entries}
    return render(request, "usage/line.html", context)


def _of_lease(person: Person, lease: Lease, now: datetime) -> dict[str, Any]:
    """Where the links of the chain lead for this person: what is not theirs is named, and not linked."""
    return {
        "lease": lease,
        "cost": lease_cost(lease, now=now),
        "lines": lease.segments.count(),
        "cleaned": _cleaned(lease),
        "sees_lease": policy.visible_leases(person).filter(pk=lease.pk).exists(),
        "entries": _entries(person, f"lease:{lease.pk}", TOLD),
    }


def _cleaned(lease: Lease) -> list[Cleaned]:
    scrubs = {one.gpu_id: one for one in lease.scrubs.select_related("entry__leaf").order_by("recorded_at")}
    gpus = Gpu.objects.filter(holds__lease=lease).select_related("host", "model").order_by("id")
    found = []
    for gpu in gpus:
        scrub = scrubs.get(gpu.pk)
        found.append(Cleaned(gpu, scrub, evidence_digest(scrub.evidence) if scrub else ""))
    return found


def _entries(person: Person, subject: str, actions: Iterable[str]) -> QuerySet[AuditEntry]:
    if not policy.reads_audit(person):
        return AuditEntry.objects.none()
    about = policy.visible_audit(person).filter(subject=subject, action__in=actions)
    return about.select_related("leaf").order_by("pk")
