"""The audit log, searched by the address; auditors can have all of it verified."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.audit.search import Search, export_lines, find, page
from leasing.audit.verification import verify_and_note
from leasing.errors import NotVisible
from leasing.models import AuditEntry, Person, Tenant, TreeHead, Verification
from portal.middleware import PersonRequest
from portal.pages.actions import action
from portal.pages.history import details
from portal.pages.words import ACTS, acts_of
from portal.streaming import streamed

PAGE = 50
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2099, 12, 31)
LARGEST = 2**63 - 1


class SearchForm(forms.Form):
    """What the address says; days are those of the reader's zone."""

    action = forms.CharField(label=gettext_lazy("Action"), max_length=60, required=False)
    actor = forms.CharField(label=gettext_lazy("Who"), max_length=200, required=False)
    subject = forms.CharField(label=gettext_lazy("About"), max_length=80, required=False)
    tenant = forms.ModelChoiceField(
        Tenant.objects.none(), to_field_name="slug", label=gettext_lazy("Team"), required=False
    )
    since = forms.DateField(label=gettext_lazy("From"), required=False)
    through = forms.DateField(label=gettext_lazy("Through"), required=False)

    def __init__(self, person: Person, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.fields["tenant"].queryset = policy.audited_tenants(person)  # type: ignore[attr-defined]

    def clean_since(self) -> date | None:
        return _sane(self.cleaned_data["since"])

    def clean_through(self) -> date | None:
        return _sane(self.cleaned_data["through"])

    def search(self) -> Search:
        """What is looked for; of a form that is not valid, the fields that are."""
        told = self.cleaned_data if self.is_valid() or self.errors else {}
        since, through, tenant = told.get("since"), told.get("through"), told.get("tenant")
        return Search(
            actions=acts_of(told.get("action") or ""),
            actor=told.get("actor") or "",
            subject=told.get("subject") or "",
            tenant=tenant.slug if tenant else "",
            since=_midnight(since) if since else None,
            before=_midnight(through + timedelta(days=1)) if through else None,
        )


@login_required
@require_safe
def audit(request: PersonRequest) -> HttpResponse:
    entries = _visible(request.user)
    form = SearchForm(request.user, request.GET)
    found = page(
        find(entries, form.search()),
        size=PAGE,
        older=_number(request, "older"),
        newer=_number(request, "newer"),
    )
    context = {
        "form": form,
        "found": found,
        "rows": [(entry, details(entry), hasattr(entry, "leaf")) for entry in found.entries],
        "acts": ACTS.items(),
        "auditor": policy.is_auditor(request.user),
        "verified": Verification.objects.first(),
        "head": TreeHead.objects.last(),
    }
    return render(request, "audit.html", context, status=200 if form.is_valid() else 400)


@login_required
@require_safe
def audit_entry(request: PersonRequest, number: int) -> HttpResponse:
    """One entry, whole, as it was sealed."""
    entry = _visible(request.user).select_related("tenant", "leaf").filter(pk=min(number, LARGEST)).first()
    if entry is None:
        raise NotVisible(_("There is no such entry."))
    context = {"entry": entry, "told": details(entry), "sealed": hasattr(entry, "leaf")}
    return render(request, "audit_entry.html", context)


@login_required
@require_safe
def audit_download(request: PersonRequest) -> HttpResponseBase:
    """What the search finds, as lines of JSON; streamed, however much it is."""
    form = SearchForm(request.user, request.GET)
    entries = _visible(request.user)
    if not form.is_valid():
        return render(request, "audit.html", {"form": form, "rows": [], "acts": ACTS.items()}, status=400)
    lines = export_lines(entries, form.search(), actor=request.actor, now=timezone.now())
    return streamed(request, lambda: lines, "audit.jsonl", "application/x-ndjson; charset=utf-8")


@action
def verify(request: PersonRequest) -> str:
    """Verify all of the log now."""
    if not policy.is_auditor(request.user):
        raise NotVisible(_("There is nothing here."))
    verdict = verify_and_note(actor=request.actor, now=timezone.now())
    if not verdict.problems:
        messages.success(request, _("The log verifies."))
    return reverse("audit")


def _visible(person: Person) -> QuerySet[AuditEntry]:
    if not policy.reads_audit(person):
        raise NotVisible(_("There is nothing here."))
    return policy.visible_audit(person)


def _number(request: PersonRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return min(int(text), LARGEST) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time()))


def _sane(day: date | None) -> date | None:
    if day is not None and not FIRST_DAY <= day <= LAST_DAY:
        raise forms.ValidationError(_("This date is out of range."))
    return day
