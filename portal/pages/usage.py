"""Usage: what was used in a time, by whom, for how much; each figure leads to its lines, and to files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.errors import NotVisible
from leasing.exports.export import FORMS, export_usage
from leasing.exports.sums import sums, totals
from leasing.metering import billed_seconds, segment_amount
from leasing.models import UsageSegment
from portal.middleware import PersonRequest
from portal.pages.usage_chart import charts_of, spans_of
from portal.pages.usage_form import UsageForm, found, midnight
from portal.streaming import streamed

PAGE = 50
# What a person's figures are looked at by next: teams by their people, people by what they had.
NARROWER = {"tenant": "person", "person": "model", "model": "tenant"}


@dataclass(frozen=True)
class Line:
    """One segment as it is billed, or would be if it ended now."""

    segment: UsageSegment
    seconds: int
    amount: Decimal


@login_required
@require_safe
def usage(request: PersonRequest) -> HttpResponse:
    """Cost or GPU-hours over time, and what each had."""
    form, now = _form(request), timezone.now()
    if not form.is_valid():
        return render(request, "usage/usage.html", {"form": form}, status=400)
    spans = spans_of(*form.days)
    edges = [midnight(span.first) for span in spans] + [midnight(spans[-1].last + timedelta(days=1))]
    had = sums(found(request.user, form), edges, by=form.divided, now=now)
    show = form.cleaned_data["show"] or "cost"
    context = {
        "form": form,
        "charts": charts_of(spans, had, show=show),
        "show": show,
        "by": form.divided,
        "narrower": NARROWER[form.divided],
        "gpu_hours": sum((Decimal(one.gpu_seconds) for one in had), Decimal(0)) / 3600,
        "may_export": _may_export(request),
        "forms": FORMS.items(),
    }
    return render(request, "usage/usage.html", context)


@login_required
@require_safe
def usage_lines(request: PersonRequest) -> HttpResponse:
    """The lines behind the figures."""
    form, now = _form(request), timezone.now()
    if not form.is_valid():
        return render(request, "usage/lines.html", {"form": form}, status=400)
    segments = found(request.user, form).order_by("starts_at", "id")
    page = Paginator(segments, PAGE).get_page(request.GET.get("page"))
    context = {
        "form": form,
        "page": page,
        "lines": [Line(one, billed_seconds(one, now), segment_amount(one, now)) for one in page],
        "totals": totals(segments, now=now),
        "may_export": _may_export(request),
        "forms": FORMS.items(),
    }
    return render(request, "usage/lines.html", context)


@login_required
@require_safe
def usage_download(request: PersonRequest) -> HttpResponseBase:
    """The lines as a file, sent while it is made."""
    if not _may_export(request):
        raise NotVisible(_("There is nothing here."))
    form = _form(request)
    if not form.is_valid():
        return render(request, "usage/lines.html", {"form": form}, status=400)
    made = export_usage(
        actor=request.actor,
        segments=policy.exported_usage(request.user),
        chosen=form.chosen,
        form=request.GET.get("form", "csv"),
        now=timezone.now(),
    )
    return streamed(request, made.pieces, made.name, made.media_type)


def _form(request: PersonRequest) -> UsageForm:
    if not policy.seen_tenants(request.user).exists():
        raise NotVisible(_("There is nothing here."))
    return UsageForm(request.user, request.GET.dict())


def _may_export(request: PersonRequest) -> bool:
    return policy.billed_tenants(request.user).exists()
