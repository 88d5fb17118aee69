"""Quotas: what I may use without asking, requests for more, and the decisions of those who may decide."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from hosts.models import GpuModel
from leasing import policy, quota_requests, quota_setting, quotas
from leasing.errors import InvalidRequest, NotVisible
from leasing.models import Person, QuotaKind, Tenant
from portal.middleware import PersonRequest
from portal.pages.actions import action
from portal.pages.booking_form import LocalTimeField

SHOWN = 50


class AskForm(forms.Form):
    """The shape of a request; whether it can be had is for an approver to say."""

    tenant = forms.ModelChoiceField(Tenant.objects.none(), to_field_name="slug", empty_label=None)
    whose = forms.ChoiceField(choices=[("all", gettext_lazy("the whole team")), ("me", gettext_lazy("me"))])
    kind = forms.ChoiceField(choices=QuotaKind.choices)
    model = forms.ModelChoiceField(
        GpuModel.objects.all(), to_field_name="slug", required=False, empty_label=gettext_lazy("all models")
    )
    value = forms.DecimalField(min_value=0, max_value=quota_requests.LARGEST, max_digits=12, decimal_places=2)
    until = LocalTimeField()
    reason = forms.CharField(max_length=500)

    def __init__(self, person: Person, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["tenant"].queryset = policy.tenants_with_role(person, "member")  # type: ignore[attr-defined]
        _dress(self)


class LimitForm(forms.Form):
    """A limit that an approver sets; without a quantity it is lifted."""

    tenant = forms.ModelChoiceField(Tenant.objects.none(), to_field_name="slug", empty_label=None)
    person = forms.CharField(max_length=150, required=False)
    kind = forms.ChoiceField(choices=[each for each in QuotaKind.choices if each[0] != QuotaKind.BUDGET])
    model = forms.ModelChoiceField(
        GpuModel.objects.all(), to_field_name="slug", required=False, empty_label=gettext_lazy("all models")
    )
    value = forms.DecimalField(
        min_value=0, max_value=quota_requests.LARGEST, max_digits=12, decimal_places=2, required=False
    )
    until = LocalTimeField()

    def __init__(self, person: Person, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["tenant"].queryset = policy.tenants_with_role(person, "approver")  # type: ignore[attr-defined]
        _dress(self)


def _dress(form: forms.Form) -> None:
    for field in form.fields.values():
        chosen = isinstance(field.widget, forms.Select)
        field.widget.attrs["class"] = "form-select" if chosen else "form-control"


@login_required
@require_safe
def quota(request: PersonRequest) -> HttpResponse:
    person, now = request.user, timezone.now()
    tenants = policy.tenants_with_role(person, "member", "approver").order_by("name")
    if not tenants.exists():
        raise NotVisible(_("There is nothing here."))
    found = quota_requests.visible_requests(person)[:SHOWN]
    context = {
        "limits": [(tenant, quotas.standing(tenant, person, now=now)) for tenant in tenants],
        "kinds": dict(QuotaKind.choices),
        "requests": [
            (asked, quota_requests.may_decide(person, asked), asked.asked_by_id == person.pk)
            for asked in found
        ],
        "form": AskForm(person),
        "limit_form": LimitForm(person, prefix="limit"),
        "people": [
            (tenant, quota_setting.limits_of_people(tenant, now=now))
            for tenant in policy.tenants_with_role(person, "approver").order_by("name")
        ],
        "may_ask": policy.tenants_with_role(person, "member").exists(),
    }
    return render(request, "quota.html", context)


@action
def ask(request: PersonRequest) -> str:
    asked = _cleaned(AskForm(request.user, request.POST))
    quota_requests.ask_quota(
        actor=request.actor,
        tenant=asked["tenant"],
        kind=asked["kind"],
        value=asked["value"],
        reason=asked["reason"],
        for_all=asked["whose"] == "all",
        model=asked["model"],
        until=asked["until"],
        now=timezone.now(),
    )
    messages.success(request, _("Asked. You will be told when it has been decided."))
    return reverse("quota")


@action
def put_limit(request: PersonRequest) -> str:
    given = _cleaned(LimitForm(request.user, request.POST, prefix="limit"))
    quota_setting.put_limit(
        actor=request.actor,
        tenant=given["tenant"],
        username=given["person"].strip(),
        kind=given["kind"],
        model=given["model"],
        value=given["value"],
        until=given["until"],
        now=timezone.now(),
    )
    messages.success(request, _("The limit is lifted.") if given["value"] is None else _("The limit is set."))
    return reverse("quota")


def _cleaned(form: forms.Form) -> dict[str, Any]:
    """What the form says. Raises InvalidRequest, with its first fault."""
    if not form.is_valid():
        field, errors = next(iter(form.errors.items()))
        raise InvalidRequest(f"{form.fields[field].label or field}: {errors[0]}", field=field)
    return form.cleaned_data


@action
def decide_quota(request: PersonRequest, request_id: UUID) -> str:
    note, now = request.POST.get("note", "").strip(), timezone.now()
    match request.POST.get("decision"):
        case "grant":
            quota_requests.grant_quota(
                actor=request.actor, request_id=request_id, note=note, until=_until(request), now=now
            )
            messages.success(request, _("Granted, and the person is told."))
        case "decline":
            quota_requests.decline_quota(actor=request.actor, request_id=request_id, note=note, now=now)
            messages.success(request, _("Declined, and the person is told why."))
        case "withdraw":
            quota_requests.withdraw_quota_request(actor=request.actor, request_id=request_id, now=now)
            messages.success(request, _("Your request is taken back."))
        case _other:
            raise InvalidRequest(_("Grant or decline."))
    return reverse("quota")


def _until(request: PersonRequest) -> datetime | None:
    """Until when it is granted, if the approver says so."""
    try:
        until: datetime | None = LocalTimeField().clean(request.POST.get("until", ""))
    except forms.ValidationError as error:
        raise InvalidRequest(error.messages[0], field="until") from error
    return until
