"""Who I am to Leasehold: language and zone, roles, SSH keys, tokens for the API, and calendar feeds."""

from __future__ import annotations

import zoneinfo
from datetime import timedelta
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST
from knox.models import AuthToken

from leasing import policy
from leasing.errors import DomainError
from leasing.feeds.keeping import LONGEST_NAME, create_feed, revoke_feed
from leasing.models import CalendarFeed, Person, SshKey
from leasing.ssh_keys import add_ssh_key, remove_ssh_key
from portal.api.tokens import create_token, revoke_token
from portal.feeds import address_of
from portal.middleware import PersonRequest
from portal.pages.actions import action, back_of

TOKEN_LIFETIMES = {
    "30": gettext_lazy("30 days"),
    "90": gettext_lazy("90 days"),
    "365": gettext_lazy("1 year"),
}


class ReaderForm(forms.ModelForm[Person]):
    """How the person wants to be spoken to."""

    class Meta:
        model = Person
        fields = ["language", "timezone", "shortcuts"]

    language = forms.ChoiceField(choices=settings.LANGUAGES, widget=forms.Select({"class": "form-select"}))
    timezone = forms.ChoiceField(
        choices=[(name, name) for name in sorted(zoneinfo.available_timezones())],
        widget=forms.Select({"class": "form-select"}),
    )
    shortcuts = forms.BooleanField(required=False, widget=forms.CheckboxInput({"class": "form-check-input"}))


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def account(request: PersonRequest) -> HttpResponse:
    form = ReaderForm(request.POST or None, instance=request.user, initial=_spoken(request.user))
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, _("Saved."))
        return redirect("account")
    return _page(request, form, status=400 if form.errors else 200)


@login_required
@require_POST
def add_token(request: PersonRequest) -> HttpResponse:
    """Make a token and show it, this once: it is stored as a hash."""
    days = request.POST.get("days", "")
    if days not in TOKEN_LIFETIMES:
        days = "30"
    token = create_token(actor=request.actor, lifetime=timedelta(days=int(days)), now=timezone.now())
    return _page(request, _reader_form(request), new_token=token.secret)


@action
def remove_token(request: PersonRequest, token_key: str) -> str:
    revoke_token(actor=request.actor, token_key=token_key, now=timezone.now())
    messages.success(request, _("The token is revoked."))
    return reverse("account")


@action
def add_key(request: PersonRequest) -> str:
    add_ssh_key(
        actor=request.actor,
        line=request.POST.get("key", ""),
        name=request.POST.get("name", ""),
        now=timezone.now(),
    )
    messages.success(request, _("The SSH key is added: workstations that start from now on know it."))
    return reverse("account")


@action
def remove_key(request: PersonRequest, key_id: UUID) -> str:
    remove_ssh_key(actor=request.actor, key_id=key_id, now=timezone.now())
    messages.success(request, _("The SSH key is removed. Workstations that run still know it."))
    return reverse("account")


@login_required
@require_POST
def add_feed(request: PersonRequest) -> HttpResponse:
    """Make a calendar feed and show its address, this once: it is stored as a hash."""
    try:
        made = create_feed(
            actor=request.actor,
            name=request.POST.get("name", ""),
            model_slug=request.POST.get("model", ""),
            now=timezone.now(),
        )
    except DomainError as error:
        messages.error(request, " ".join(filter(None, (str(error.message), str(error.hint)))))
        return redirect("account")
    return _page(request, _reader_form(request), new_feed=address_of(made.secret))


@action
def remove_feed(request: PersonRequest, feed_id: UUID) -> str:
    revoke_feed(actor=request.actor, feed_id=feed_id, now=timezone.now())
    messages.success(request, _("The calendar feed is revoked: its address leads nowhere."))
    return reverse("account")


@action
def speak(request: PersonRequest) -> str:
    """Switch the language from any page."""
    wanted = request.POST.get("language", "")
    if wanted in dict(settings.LANGUAGES):
        request.user.language = wanted
        request.user.save(update_fields=["language"])
    return back_of(request)


def _spoken(person: Person) -> dict[str, str]:
    return {"language": person.language or translation.get_language() or "en"}


def _reader_form(request: PersonRequest) -> ReaderForm:
    return ReaderForm(instance=request.user, initial=_spoken(request.user))


def _page(
    request: PersonRequest, form: ReaderForm, *, new_token: str = "", new_feed: str = "", status: int = 200
) -> HttpResponse:
    context = {
        "form": form,
        "roles": policy.roles_of(request.user),
        "tokens": AuthToken.objects.filter(user=request.user).order_by("-created"),
        "lifetimes": TOKEN_LIFETIMES.items(),
        "new_token": new_token,
        "ssh_keys": SshKey.objects.filter(person=request.user),
        "feeds": CalendarFeed.objects.filter(person=request.user).select_related("model"),
        "models": policy.visible_models(request.user),
        "new_feed": new_feed,
        "longest_name": LONGEST_NAME,
    }
    return render(request, "account.html", context, status=status)
