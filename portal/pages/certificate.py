"""The scrub certificate of a workstation: to read, to keep as PDF, and to check without us as JSON."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import timezone
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.certificates import Certificate, as_json, certificate_of
from leasing.models import Lease
from leasing.proof import evidence_digest
from portal.middleware import PersonRequest
from portal.pages.downloads import attached
from portal.pdf import pdf_of


@login_required
@require_safe
def certificate(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    return render(request, "workstation/certificate.html", _shown(*_issued(request, lease_id)))


@login_required
@require_safe
def certificate_json(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    lease, issued = _issued(request, lease_id)
    return attached(as_json(issued), f"certificate-{lease.machine_name}.json", "application/json")


@login_required
@require_safe
def certificate_pdf(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    lease, issued = _issued(request, lease_id)
    text = render_to_string("workstation/certificate_print.html", _shown(lease, issued), request)
    return attached(pdf_of(text), f"certificate-{lease.machine_name}.pdf", "application/pdf")


def _issued(request: PersonRequest, lease_id: UUID) -> tuple[Lease, Certificate]:
    lease = policy.fetch_lease(request.user, lease_id, "view")
    return lease, certificate_of(lease, now=timezone.now())


def _shown(lease: Lease, issued: Certificate) -> dict[str, Any]:
    scrubs = lease.scrubs.select_related("gpu__host", "gpu__model").order_by("recorded_at", "id")
    return {
        "lease": lease,
        "certificate": issued,
        "scrubs": [(scrub, evidence_digest(scrub.evidence)) for scrub in scrubs],
    }
