"""Usage: what was used in a time, by whom, for how much; each figure leads to its lines, and to files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

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
from leasing.exports.filter import Billed
from leasing.exports.lines import UsageLine, read_lines
from leasing.exports.sums import sums, totals
from portal.middleware import PersonRequest
from portal.pages.fleet_use import may_read
from portal.pages.usage_chart import charts_of, spans_of
from portal.pages.usage_form import UsageForm, found, midnight
from portal.streaming import streamed

PAGE = 50
# What a person's figures are looked at by next: teams by their people, people by what they had.
NARROWER = {"tenant": "person", "person": "model", "model": "tenant"}


class Lines(Sequence[UsageLine]):
    """All lines that are meant, for pages of them: only those of a page are read."""

    def __init__(self, billed: Billed, count: int, now: datetime) -> None:
        self._billed, self._count, self._now = billed, count, now

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, wanted: Any) -> Any:
        first, last, _step = wanted.indices(self._count)
        return list(read_lines(self._billed, now=self._now, skip=first, most=last - first))


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
        "reads_time": may_read(request.user),
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
    billed = found(request.user, form)
    sums_of_all = totals(billed, now=now)
    lines = Lines(billed, sum(one.lines for one in sums_of_all), now)
    context = {
        "form": form,
        "page": Paginator(lines, PAGE).get_page(request.GET.get("page")),
        "totals": sums_of_all,
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
        billed=Billed.of_tenants(policy.billed_tenants(request.user)),
        chosen=form.chosen,
        form=request.GET.get("form", "csv"),
        now=timezone.now(),
    )
    return streamed(request, made.pieces, made.name, made.media_type)


def _form(request: PersonRequest) -> UsageForm:
    if not policy.invoiced_tenants(request.user).exists():
        raise NotVisible(_("There is nothing here."))
    return UsageForm(request.user, request.GET.dict())


def _may_export(request: PersonRequest) -> bool:
    return policy.billed_tenants(request.user).exists()
