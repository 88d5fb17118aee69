"""Rates, discounts and tax: shown to those who manage the money and to auditors, set by the former."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.billing.prices import (
    LARGEST_RATE,
    set_billing,
    set_discount,
    set_rate,
    set_storage_rate,
    set_tax,
)
from leasing.errors import InvalidRequest, NotVisible
from leasing.models import Discount, Flavor, Rate, StorageRate, TaxRate, Tenant
from leasing.models.people import check_zone
from leasing.models.prices import CURRENCY
from leasing.storing import storage_price
from portal.middleware import PersonRequest
from portal.pages.actions import action
from portal.pages.booking_form import LocalTimeField

FLAVORS = Flavor.objects.order_by("name")
SHOWN = 10
TENANTS = Tenant.objects.order_by("name")


def rate_field(**options: Any) -> forms.DecimalField:
    return forms.DecimalField(min_value=0, max_value=LARGEST_RATE, max_digits=12, decimal_places=4, **options)


def percent_field(**options: Any) -> forms.DecimalField:
    return forms.DecimalField(min_value=0, max_value=100, max_digits=5, decimal_places=2, **options)


class RateForm(forms.Form):
    flavor = forms.ModelChoiceField(
        FLAVORS, label=gettext_lazy("Workstation"), to_field_name="slug", empty_label=None
    )
    per_hour = rate_field(label=gettext_lazy("Per hour, net"))
    currency = forms.CharField(
        label=gettext_lazy("Currency"), max_length=3, validators=[CURRENCY], initial="EUR"
    )
    off_peak_per_hour = rate_field(label=gettext_lazy("Off-peak per hour (none if empty)"), required=False)
    peak_days = forms.RegexField(
        r"^[1-7]{1,7}$", label=gettext_lazy("Peak days (1 is Monday)"), initial="12345"
    )
    peak_from_hour = forms.IntegerField(
        label=gettext_lazy("Peak from hour"), min_value=0, max_value=23, initial=8
    )
    peak_until_hour = forms.IntegerField(
        label=gettext_lazy("Peak until hour"), min_value=1, max_value=24, initial=20
    )
    peak_zone = forms.CharField(
        label=gettext_lazy("Zone of the peak hours"), max_length=64, validators=[check_zone], initial="UTC"
    )
    reserved_hours = forms.IntegerField(
        label=gettext_lazy("Booked so many hours ahead"), min_value=0, max_value=17520, initial=0
    )
    reserved_percent = percent_field(label=gettext_lazy("costs so much per cent less"))
    valid_from = LocalTimeField(label=gettext_lazy("From (now if empty)"))


class DiscountForm(forms.Form):
    tenant = forms.ModelChoiceField(
        TENANTS, label=gettext_lazy("Team"), to_field_name="slug", empty_label=None
    )
    flavor = forms.ModelChoiceField(
        FLAVORS,
        label=gettext_lazy("Workstation"),
        to_field_name="slug",
        required=False,
        empty_label=gettext_lazy("all workstations"),
    )
    percent = percent_field(label=gettext_lazy("Per cent less"))
    valid_from = LocalTimeField(label=gettext_lazy("From (now if empty)"))
    valid_until = LocalTimeField(label=gettext_lazy("Until (for good if empty)"))


class StorageForm(forms.Form):
    per_gib_month = rate_field(label=gettext_lazy("Per GiB and month, net"))
    currency = forms.CharField(
        label=gettext_lazy("Currency"), max_length=3, validators=[CURRENCY], initial="EUR"
    )
    valid_from = LocalTimeField(label=gettext_lazy("From (now if empty)"))


class TaxForm(forms.Form):
    label = forms.CharField(label=gettext_lazy("Name"), max_length=40, initial="VAT")
    percent = percent_field(label=gettext_lazy("Per cent"))
    tenant = forms.ModelChoiceField(
        TENANTS,
        label=gettext_lazy("Team"),
        to_field_name="slug",
        required=False,
        empty_label=gettext_lazy("all of the region"),
    )
    region = forms.CharField(
        label=gettext_lazy("Region (all others if empty)"), max_length=20, required=False
    )
    valid_from = LocalTimeField(label=gettext_lazy("From (now if empty)"))


class BillingForm(forms.Form):
    tenant_slug = forms.SlugField()
    region = forms.CharField(max_length=20, required=False)
    address = forms.CharField(max_length=500, required=False)


@login_required
@require_safe
def prices(request: PersonRequest) -> HttpResponse:
    if not (policy.is_money_manager(request.user) or policy.is_auditor(request.user)):
        raise NotVisible(_("There is nothing here."))
    now = timezone.now()
    valid = Q(valid_until=None) | Q(valid_until__gt=now)
    context: dict[str, Any] = {
        "rates": _marked(Rate.objects.filter(valid).select_related("flavor"), "flavor_id"),
        "discounts": Discount.objects.filter(valid).select_related("tenant", "flavor"),
        "taxes": TaxRate.objects.filter(valid).select_related("tenant"),
        "storage_rates": StorageRate.objects.order_by("-valid_from")[:SHOWN],
        "storage_now": storage_price(at=now),
        "tenants": TENANTS.all(),
        "may_set": policy.is_money_manager(request.user),
        "rate_form": _styled(RateForm(initial={"reserved_percent": 0})),
        "discount_form": _styled(DiscountForm()),
        "storage_form": _styled(StorageForm()),
        "tax_form": _styled(TaxForm()),
    }
    return render(request, "money/prices.html", context)


@action
def add_rate(request: PersonRequest) -> str:
    return _set(request, RateForm, set_rate, _("The rate is set. What is booked keeps its price."))


@action
def add_discount(request: PersonRequest) -> str:
    return _set(
        request, DiscountForm, set_discount, _("The discount is set. What is booked keeps its price.")
    )


@action
def add_storage_rate(request: PersonRequest) -> str:
    return _set(
        request, StorageForm, set_storage_rate, _("The price of storage is set. Closed months keep theirs.")
    )


@action
def add_tax(request: PersonRequest) -> str:
    return _set(request, TaxForm, set_tax, _("The tax is set. Closed months keep theirs."))


@action
def change_billing(request: PersonRequest) -> str:
    return _set(request, BillingForm, set_billing, _("Saved. Invoices that are issued keep their address."))


def _set(request: PersonRequest, form: type[forms.Form], service: Callable[..., Any], words: str) -> str:
    policy.require_money_manager(request.user)
    given = form(request.POST)
    if not given.is_valid():
        field, errors = next(iter(given.errors.items()))
        label = given.fields[field].label if field in given.fields else ""
        raise InvalidRequest(f"{label or field}: {errors[0]}", field=field)
    service(actor=request.actor, now=timezone.now(), **given.cleaned_data)
    messages.success(request, words)
    return reverse("prices")


def _marked(rates: Any, key: str) -> list[tuple[Rate, str]]:
    """Each with whether it is replaced, in force or to come."""
    now, found = timezone.now(), list(rates.order_by("flavor__name", "valid_from"))
    newest: dict[int, Rate] = {getattr(one, key): one for one in found if one.valid_from <= now}
    marks = []
    for one in found:
        mark = "coming" if one.valid_from > now else "now" if newest[getattr(one, key)] is one else "past"
        marks.append((one, mark))
    return marks


def _styled(form: forms.Form) -> forms.Form:
    for field in form.fields.values():
        chosen = isinstance(field.widget, forms.Select)
        field.widget.attrs["class"] = "form-select" if chosen else "form-control"
    return form
