"""Pages for what went wrong: what happened, what to do, a reference to quote. The API gets problems."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from leasing.errors import DomainError
from portal.api.problems import plain_problem, status_of

API_PREFIX = "/api/"


def domain_error_page(request: HttpRequest, error: DomainError) -> HttpResponse:
    return error_page(request, status_of(error), str(error.message), hint=str(error.hint))


def error_page(request: HttpRequest, status: int, message: str, *, hint: str = "") -> HttpResponse:
    if request.path.startswith(API_PREFIX):
        return plain_problem(request, status=status, detail=message, hint=hint)
    context = {
        "status": status,
        "phrase": HTTPStatus(status).phrase,
        "message": message,
        "hint": hint,
        "reference": getattr(request, "request_id", ""),
    }
    return render(request, "error.html", context, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, RequestDataTooBig):
        words, hint = _("Too much was sent at once."), _("Shorten it and send it again.")
        return error_page(request, 413, words, hint=hint)
    return error_page(
        request, 400, _("The request could not be understood."), hint=_("Go back and try again.")
    )


def not_allowed(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page(request, 403, _("You may not do this."), hint=_("Ask somebody who may."))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page(
        request, 404, _("There is nothing here, or nothing that you may see."), hint=_("Check the address.")
    )


def server_error(request: HttpRequest) -> HttpResponse:
    return error_page(
        request,
        500,
        _("Leasehold failed to answer; the fault is ours and has been written to the log."),
        hint=_("Try again. If it stays, tell your operators and quote the reference."),
    )


def csrf_failure(request: HttpRequest, reason: str = "", **_kwargs: Any) -> HttpResponse:
    return error_page(
        request,
        403,
        _("The form was too old, or came from another site, so nothing was changed."),
        hint=_("Go back, reload the page, and send it again."),
    )
