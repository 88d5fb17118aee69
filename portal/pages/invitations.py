"""What an invitation's link leads to: joining with an account that is there, or opening one first."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth import login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from leasing.errors import DomainError, NotVisible
from leasing.membership.invitations import accept_invitation, fetch_invitation, open_account
from leasing.models import Person
from portal.middleware import actor_of, stranger_of

BACKEND = "django.contrib.auth.backends.ModelBackend"


@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def invitation(request: HttpRequest, secret: str) -> HttpResponse:
    """Nothing is done by following the link alone."""
    now, refused = timezone.now(), None
    found = fetch_invitation(secret, now=now)
    if request.method == "POST":
        try:
            person = request.user if isinstance(request.user, Person) else _new_account(request, secret)
            tenant = accept_invitation(actor=actor_of(request, person), secret=secret, now=now)
        except NotVisible:
            raise
        except DomainError as error:
            refused = error
        else:
            if request.user != person:
                login(request, person, backend=BACKEND)
            messages.success(request, _("Welcome to %(team)s.") % {"team": tenant})
            return redirect("home")
    response = render(
        request,
        "teams/invitation.html",
        {"invitation": found, "refused": refused, "given": request.POST},
        status=400 if refused else 200,
    )
    response.headers["Cache-Control"] = "private, no-store"
    return response


def _new_account(request: HttpRequest, secret: str) -> Person:
    return open_account(
        actor=stranger_of(request),
        secret=secret,
        username=request.POST.get("username", "")[:150],
        name=request.POST.get("name", "")[:300],
        password=request.POST.get("password", "")[:500],
        now=timezone.now(),
    )
