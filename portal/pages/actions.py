"""Forms that do one thing: run the service, say what came of it, and go back to where it is seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, ParamSpec

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from leasing import policy
from leasing.errors import DomainError, NotAllowed, NotVisible
from portal.middleware import PersonRequest

P = ParamSpec("P")
Action = Callable[Concatenate[PersonRequest, P], HttpResponse]


def action(
    perform: Callable[Concatenate[PersonRequest, P], str],
) -> Callable[Concatenate[PersonRequest, P], HttpResponse]:
    """A POST-only view from a function that returns where to go. Refusals become messages there, in words.

    What the person may not see or do is left to the error pages: 404 and 403.
    """

    @login_required
    @require_POST
    def view(request: PersonRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        try:
            return redirect(perform(request, *args, **kwargs))
        except (NotVisible, NotAllowed):
            raise
        except DomainError as error:
            messages.error(request, " ".join(filter(None, (str(error.message), str(error.hint)))))
            return redirect(back_of(request))

    return update_wrapper(view, perform)


def operating(page: str) -> Callable[[Callable[Concatenate[PersonRequest, P], str]], Action[P]]:
    """An action for operators: it returns what is to be said afterwards, on that page."""

    def decorated(perform: Callable[Concatenate[PersonRequest, P], str]) -> Action[P]:
        def run(request: PersonRequest, /, *args: P.args, **kwargs: P.kwargs) -> str:
            policy.require_operator(request.user)
            messages.success(request, perform(request, *args, **kwargs))
            return reverse(page)

        return action(update_wrapper(run, perform))

    return decorated


def text_in(request: PersonRequest, name: str, most: int) -> str:
    """What a field of the form says; one character more than it may, where it says too much."""
    return request.POST.get(name, "").strip()[: most + 1]


def number_in(request: PersonRequest, name: str) -> int | None:
    """The whole number, of at most eight digits, that a field of the form says."""
    given = request.POST.get(name, "").strip()
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 9 else None


def back_of(request: PersonRequest) -> str:
    """The page that the form was on, named by the form itself; only paths of this site."""
    back = request.POST.get("back", "")
    here = url_has_allowed_host_and_scheme(back, allowed_hosts=None) and back.startswith("/")
    return back if here else "home"
