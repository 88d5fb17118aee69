"""Invoices and credit notes: to read, to keep as PDF; drafts of open months, which finance closes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.billing.closing import close_month, closed_month, draft, months_due, still_open
from leasing.billing.credits import left_of
from leasing.billing.months import month_named, month_of
from leasing.errors import NotVisible
from leasing.models import Invoice, InvoiceLine, Person, Tenant
from portal.middleware import PersonRequest
from portal.pages.actions import action
from portal.pages.downloads import attached
from portal.pdf import pdf_of

PAGE = 50


@login_required
@require_safe
def invoices(request: PersonRequest) -> HttpResponse:
    tenants, now = billed_to(request.user), timezone.now()
    may_close = policy.is_money_manager(request.user)
    found = policy.visible_invoices(request.user)
    chosen = request.GET.get("tenant", "")
    if chosen:
        found = found.filter(tenant__slug=chosen)
    context = {
        "page": Paginator(found, PAGE).get_page(request.GET.get("page")),
        "tenants": tenants,
        "chosen": chosen,
        "present": [(tenant, month_of(now, tenant.timezone).name) for tenant in tenants],
        "due": [(tenant, months_due(tenant, now=now)) for tenant in tenants] if may_close else [],
        "may_close": may_close,
    }
    return render(request, "money/invoices.html", context)


@login_required
@require_safe
def invoice(request: PersonRequest, invoice_id: UUID) -> HttpResponse:
    return render(request, "money/invoice.html", _shown(fetch_invoice(request.user, invoice_id)))


@login_required
@require_safe
def invoice_pdf(request: PersonRequest, invoice_id: UUID) -> HttpResponse:
    """In the zone of the month that it bills."""
    found = fetch_invoice(request.user, invoice_id)
    with timezone.override(found.zone):
        text = render_to_string("money/invoice_print.html", _shown(found), request)
    return attached(pdf_of(text), f"{found.number}.pdf", "application/pdf")


@login_required
@require_safe
def invoice_draft(request: PersonRequest, slug: str, month: str) -> HttpResponse:
    tenant, now = _tenant(request.user, slug), timezone.now()
    known = month_named(month, tenant.timezone)
    context = {
        "tenant": tenant,
        "month": known,
        "drafts": draft(tenant, month, now=now),
        "closed": closed_month(tenant, month),
        "still_open": still_open(tenant, month),
        "is_over": known.ends_at <= now,
        "may_close": policy.is_money_manager(request.user),
    }
    return render(request, "money/draft.html", context)


@action
def close(request: PersonRequest, slug: str, month: str) -> str:
    policy.require_money_manager(request.user)
    closed = close_month(
        actor=request.actor, tenant=_tenant(request.user, slug), name=month, now=timezone.now()
    )
    if not closed.fresh:
        messages.success(request, _("This month was closed before. Nothing has changed."))
    elif closed.invoices:
        numbers = ", ".join(one.number for one in closed.invoices)
        messages.success(request, _("Closed. Issued: %(numbers)s") % {"numbers": numbers})
    else:
        messages.success(request, _("Closed. Nothing was used, so there is no invoice."))
    return reverse("invoices")


def billed_to(person: Person) -> Sequence[Tenant]:
    """The teams whose money the person may see, by name. Raises NotVisible if there is none."""
    tenants = list(policy.invoiced_tenants(person).order_by("name"))
    if not tenants:
        raise NotVisible(_("There is nothing here."))
    return tenants


def fetch_invoice(person: Person, invoice_id: UUID) -> Invoice:
    found = policy.visible_invoices(person).filter(pk=invoice_id).first()
    if found is None:
        raise NotVisible(_("There is no such invoice."))
    return found


def _tenant(person: Person, slug: str) -> Tenant:
    found = policy.invoiced_tenants(person).filter(slug=slug).first()
    if found is None:
        raise NotVisible(_("There is nothing here."))
    return found


def _shown(found: Invoice) -> dict[str, Any]:
    lines: list[InvoiceLine] = list(found.lines.select_related("lease", "corrects"))
    notes = list(found.credit_notes.order_by("number"))
    return {"invoice": found, "lines": lines, "notes": notes, "left": left_of(found) if notes else None}
