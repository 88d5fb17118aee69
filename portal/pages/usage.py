"""Usage: what was used in a time, by whom, for how much; and the same as CSV."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal

from django import forms
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.errors import NotVisible
from leasing.metering import billed_seconds, segment_amount
from leasing.models import Person, Tenant, UsageSegment
from leasing.usage import usage_csv
from portal.middleware import PersonRequest
from portal.pages.downloads import attached

PAGE = 50
YEARS = range(2000, 2100)


class PeriodForm(forms.Form):
    """From the beginning of one day to the end of another, in the reader's zone."""

    since = forms.DateField(label=gettext_lazy("From"), widget=forms.DateInput({"type": "date"}, "%Y-%m-%d"))
    through = forms.DateField(
        label=gettext_lazy("Through"), widget=forms.DateInput({"type": "date"}, "%Y-%m-%d")
    )
    tenant = forms.ModelChoiceField(
        Tenant.objects.none(),
        to_field_name="slug",
        required=False,
        empty_label=gettext_lazy("all teams"),
        widget=forms.Select({"class": "form-select"}),
    )

    def __init__(self, person: Person, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.fields["tenant"].queryset = policy.billed_tenants(person)  # type: ignore[attr-defined]

    def clean_since(self) -> date:
        return _sane(self.cleaned_data["since"])

    def clean_through(self) -> date:
        return _sane(self.cleaned_data["through"])

    def clean(self) -> None:
        given = super().clean() or {}
        if "since" in given and "through" in given and given["through"] < given["since"]:
            self.add_error("through", _("The period ends before it begins. Choose a later day."))


@dataclass(frozen=True)
class Line:
    """One segment as it is billed, or would be if it ended now."""

    segment: UsageSegment
    seconds: int
    amount: Decimal


@login_required
@require_safe
def usage(request: PersonRequest) -> HttpResponse:
    now = timezone.now()
    form = _period(request)
    lines = [_line(segment, now) for segment in _segments(request.user, form)]
    context = {
        "form": form,
        "page": Paginator(lines, PAGE).get_page(request.GET.get("page")),
        "totals": totals(lines),
        "count": len(lines),
    }
    return render(request, "usage.html", context, status=200 if form.is_valid() else 400)


@login_required
@require_safe
def usage_download(request: PersonRequest) -> HttpResponseBase:
    form = _period(request)
    segments = _segments(request.user, form)
    if not form.is_valid():
        return render(request, "usage.html", {"form": form, "totals": [], "count": 0}, status=400)
    name = f"usage-{form.cleaned_data['since']}-{form.cleaned_data['through']}.csv"
    return csv_response(segments, name, timezone.now())


def csv_response(segments: QuerySet[UsageSegment], name: str, now: datetime) -> HttpResponse:
    return attached("".join(usage_csv(segments, now=now)), name, "text/csv; charset=utf-8")


def within(segments: QuerySet[UsageSegment], since: datetime, before: datetime) -> QuerySet[UsageSegment]:
    """Segments that touch `[since, before)`."""
    return segments.filter(Q(ends_at__isnull=True) | Q(ends_at__gt=since), starts_at__lt=before)


def totals(lines: list[Line]) -> list[tuple[str, Decimal]]:
    """The sum per currency."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for line in lines:
        sums[line.segment.currency] += line.amount
    return sorted(sums.items())


def _period(request: PersonRequest) -> PeriodForm:
    today = timezone.localdate()
    first = {"since": today.replace(day=1).isoformat(), "through": today.isoformat()}
    return PeriodForm(request.user, first | request.GET.dict())


def _segments(person: Person, form: PeriodForm) -> QuerySet[UsageSegment]:
    if not policy.billed_tenants(person).exists():
        raise NotVisible(_("There is nothing here."))
    if not form.is_valid():
        return UsageSegment.objects.none()
    chosen = form.cleaned_data
    segments = within(
        policy.visible_usage(person),
        _midnight(chosen["since"]),
        _midnight(chosen["through"] + timedelta(days=1)),
    )
    if chosen["tenant"]:
        segments = segments.filter(lease__tenant=chosen["tenant"])
    return segments.order_by("starts_at", "id")


def _line(segment: UsageSegment, now: datetime) -> Line:
    return Line(segment, billed_seconds(segment, now), segment_amount(segment, now))


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time()))


def _sane(day: date) -> date:
    if day.year not in YEARS:
        raise forms.ValidationError(_("This date is out of range."))
    return day
