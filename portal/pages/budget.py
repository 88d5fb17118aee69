"""The budget of a team's month: what is used, booked and foreseen, and whom it is charged to."""

from __future__ import annotations

from decimal import Decimal

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.billing.budgets import budget_of, charges, may_set, set_budget, set_budget_rule
from leasing.errors import InvalidRequest, NotVisible
from leasing.models import BudgetRule
from leasing.models.prices import CURRENCY
from leasing.quota_requests import LARGEST
from portal.middleware import PersonRequest
from portal.pages.actions import action
from portal.pages.invoices import billed_to


class BudgetForm(forms.Form):
    """The shape of what is set; no value leaves the budget as it is."""

    rule = forms.ChoiceField(choices=BudgetRule.choices)
    value = forms.DecimalField(
        min_value=Decimal(0), max_value=LARGEST, max_digits=12, decimal_places=2, required=False
    )
    currency = forms.CharField(max_length=3, validators=[CURRENCY], required=False)


@login_required
@require_safe
def budget(request: PersonRequest) -> HttpResponse:
    now = timezone.now()
    teams = []
    for tenant in billed_to(request.user):
        found = budget_of(tenant, now=now)
        by_tag = charges(tenant, found.month.name, now=now)
        teams.append((found, by_tag, may_set(request.actor, tenant)))
    return render(request, "money/budget.html", {"teams": teams, "rules": BudgetRule.choices})


@action
def change_budget(request: PersonRequest, slug: str) -> str:
    tenant = policy.invoiced_tenants(request.user).filter(slug=slug).first()
    if tenant is None or not may_set(request.actor, tenant):
        raise NotVisible(_("There is nothing here."))
    form = BudgetForm(request.POST)
    if not form.is_valid():
        field, errors = next(iter(form.errors.items()))
        raise InvalidRequest(str(errors[0]), field=field)
    asked, now = form.cleaned_data, timezone.now()
    set_budget_rule(actor=request.actor, tenant=tenant, rule=asked["rule"], now=now)
    if asked["value"] is not None:
        set_budget(
            actor=request.actor, tenant=tenant, value=asked["value"], currency=asked["currency"], now=now
        )
    messages.success(request, _("Saved. It counts for what is booked from now on."))
    return reverse("budget")
