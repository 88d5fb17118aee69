"""The filter of the usage pages, as the address says it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from hosts.models import GpuModel
from leasing import policy
from leasing.billing.months import FIRST_YEAR, LAST_YEAR
from leasing.exports.filter import Billed, UsageFilter
from leasing.exports.sums import By
from leasing.models import Person, Tenant
from leasing.models.leases import LONGEST_TAG

BY: dict[By, Any] = {
    "tenant": gettext_lazy("by team"),
    "person": gettext_lazy("by person"),
    "model": gettext_lazy("by GPU model"),
}
SHOWN = {"cost": gettext_lazy("cost"), "hours": gettext_lazy("GPU-hours")}
_SELECT = {"class": "form-select"}
_DAY = forms.DateInput({"type": "date", "class": "form-control"}, "%Y-%m-%d")


class UsageForm(forms.Form):
    """From the beginning of one day to the end of another, in the reader's zone, or a month of each team."""

    since = forms.DateField(label=gettext_lazy("From"), widget=_DAY, required=False)
    through = forms.DateField(label=gettext_lazy("Through"), widget=_DAY, required=False)
    month = forms.RegexField(
        r"^\d{4}-(0[1-9]|1[0-2])$",
        label=gettext_lazy("or month"),
        required=False,
        widget=forms.TextInput({"type": "month", "class": "form-control", "placeholder": "2026-03"}),
    )
    tenant = forms.ModelChoiceField(
        Tenant.objects.none(),
        to_field_name="slug",
        label=gettext_lazy("Team"),
        required=False,
        empty_label=gettext_lazy("all teams"),
        widget=forms.Select(_SELECT),
    )
    person = forms.CharField(
        max_length=150,
        label=gettext_lazy("Person"),
        required=False,
        widget=forms.TextInput({"class": "form-control"}),
    )
    model = forms.ModelChoiceField(
        GpuModel.objects.order_by("name"),
        to_field_name="slug",
        label=gettext_lazy("GPU model"),
        required=False,
        empty_label=gettext_lazy("all models"),
        widget=forms.Select(_SELECT),
    )
    project = forms.CharField(
        max_length=LONGEST_TAG,
        label=gettext_lazy("Project"),
        required=False,
        widget=forms.TextInput({"class": "form-control"}),
    )
    cost_centre = forms.CharField(
        max_length=LONGEST_TAG,
        label=gettext_lazy("Cost centre"),
        required=False,
        widget=forms.TextInput({"class": "form-control"}),
    )
    lease = forms.UUIDField(required=False, widget=forms.HiddenInput)
    by = forms.ChoiceField(choices=list(BY.items()), required=False, widget=forms.Select(_SELECT))
    show = forms.ChoiceField(choices=list(SHOWN.items()), required=False, widget=forms.Select(_SELECT))

    def __init__(self, person: Person, given: Mapping[str, str]) -> None:
        today = timezone.localdate()
        told = {name: value.replace("\x00", "") for name, value in given.items()}
        if not {"month", "since", "through", "lease"} & {name for name, value in told.items() if value}:
            told |= {"since": today.replace(day=1).isoformat(), "through": today.isoformat()}
        super().__init__(told)
        self.fields["tenant"].queryset = policy.invoiced_tenants(person)  # type: ignore[attr-defined]

    def clean_since(self) -> date | None:
        return _sane(self.cleaned_data["since"])

    def clean_through(self) -> date | None:
        return _sane(self.cleaned_data["through"])

    def clean_month(self) -> str:
        month: str = self.cleaned_data["month"]
        if month and not FIRST_YEAR <= int(month[:4]) <= LAST_YEAR:
            raise forms.ValidationError(_("This date is out of range."))
        return month

    def clean(self) -> None:
        given = super().clean() or {}
        if given.get("month") or self.errors or (given.get("lease") and not given.get("since")):
            return
        for name in ("since", "through"):
            if not given.get(name):
                self.add_error(name, _("Choose a day."))
        if given.get("since") and given.get("through") and given["through"] < given["since"]:
            self.add_error("through", _("The period ends before it begins. Choose a later day."))

    @property
    def chosen(self) -> UsageFilter:
        """Of a form that is valid."""
        told = self.cleaned_data
        month, tenant, model = told["month"], told["tenant"], told["model"]
        return UsageFilter(
            since=midnight(told["since"]) if told["since"] and not month else None,
            before=midnight(told["through"] + timedelta(days=1)) if told["through"] and not month else None,
            month=month,
            tenant=tenant.slug if tenant else "",
            person=told["person"],
            model=model.slug if model else "",
            project=told["project"],
            cost_centre=told["cost_centre"],
            lease=told["lease"],
        )

    @property
    def divided(self) -> By:
        found: By = self.cleaned_data["by"] or "tenant"
        return found

    @property
    def days(self) -> tuple[date, date]:
        """The first and the last."""
        told = self.cleaned_data
        if not told["month"]:
            today = timezone.localdate()
            return told["since"] or today.replace(day=1), told["through"] or today
        first = date.fromisoformat(f"{told['month']}-01")
        return first, (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)

    @property
    def narrowing(self) -> list[forms.BoundField]:
        """The fields by which less than everything is meant, for paper."""
        names = ("tenant", "person", "model", "project", "cost_centre")
        return [self[name] for name in names if self[name].value()]

    def address(self, **changes: str) -> str:
        """The filter as part of an address, with these parameters changed; empty ones are left out."""
        names = (
            "since",
            "through",
            "month",
            "tenant",
            "person",
            "model",
            "project",
            "cost_centre",
            "lease",
            "by",
            "show",
        )
        told = {name: self.data.get(name) or "" for name in names} | changes
        if told["month"]:
            told |= {"since": "", "through": ""}
        return "?" + urlencode({name: value for name, value in told.items() if value})


def found(person: Person, form: UsageForm) -> Billed:
    return form.chosen.of(Billed.of_tenants(policy.invoiced_tenants(person)))


def midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time()))


def _sane(day: date | None) -> date | None:
    if day is not None and not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise forms.ValidationError(_("This date is out of range."))
    return day
