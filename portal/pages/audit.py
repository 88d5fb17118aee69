"""The audit log, filtered by the address; auditors can have all of it verified."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.audit.verifier import verify_log
from leasing.errors import NotVisible
from leasing.models import AuditEntry, TreeHead
from portal.middleware import PersonRequest
from portal.pages.history import details

PAGE = 50
LONGEST_FILTER = 100


@login_required
@require_safe
def audit(request: PersonRequest) -> HttpResponse:
    auditor = policy.is_auditor(request.user)
    if not auditor and not policy.tenants_with_role(request.user, "approver").exists():
        raise NotVisible(_("There is nothing here."))
    entries = policy.visible_audit(request.user).select_related("tenant", "leaf")
    wanted = {name: _text(request, name) for name in ("action", "actor", "subject")}
    for name, text in wanted.items():
        if text:
            entries = entries.filter(**{f"{name}__icontains": text})
    page = Paginator(entries.order_by("-id"), PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": [(entry, details(entry), _sealed(entry)) for entry in page],
        "wanted": wanted,
        "auditor": auditor,
        "verdict": verify_log() if auditor and "verify" in request.GET else None,
        "head": TreeHead.objects.last(),
    }
    return render(request, "audit.html", context)


def _text(request: PersonRequest, name: str) -> str:
    return request.GET.get(name, "").replace("\x00", "").strip()[:LONGEST_FILTER]


def _sealed(entry: AuditEntry) -> bool:
    return hasattr(entry, "leaf")
