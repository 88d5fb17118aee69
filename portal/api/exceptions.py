"""REST framework's exceptions, Django's and the domain's, as problem details."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.utils.translation import gettext as _
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from leasing.errors import DomainError
from portal.api.problems import MEDIA_TYPE, problem, status_of


def problem_response(error: Exception, context: dict[str, Any]) -> Response | None:
    """REST framework's exception handler. None lets an error of ours through to be logged as one."""
    known = _known(error)
    if known is None:
        return None
    status, body, headers = known
    set_rollback()
    reference = getattr(context["request"], "request_id", "")
    document = problem(status, **body, reference=reference)
    return Response(document, status=status, headers=headers, content_type=MEDIA_TYPE)


def _known(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]] | None:
    if isinstance(error, DomainError):
        return *_domain(error), {}
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if isinstance(error, exceptions.APIException):
        return error.status_code, _body(error), _headers(error)
    return None


def _domain(error: DomainError) -> tuple[int, dict[str, Any]]:
    errors = [{"field": field, "detail": str(words)} for field, words in error.faults()]
    detail, hint = str(error.message), str(error.hint)
    return status_of(error), {"detail": detail, "hint": hint, "code": error.code, "errors": errors}


def _body(error: exceptions.APIException) -> dict[str, Any]:
    if isinstance(error, exceptions.ValidationError):
        errors = [{"field": field, "detail": text} for field, text in _flat(error.detail)]
        return {"detail": _("Some of what was sent cannot be used."), "code": "invalid", "errors": errors}
    return {"detail": str(error.detail), "code": str(error.default_code).replace("_", "-")}


def _headers(error: exceptions.APIException) -> dict[str, str]:
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait) + 1)
    return headers


def _flat(detail: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(detail, dict):
        for name, inner in detail.items():
            yield from _flat(inner, "" if name == "non_field_errors" else f"{path}.{name}".lstrip("."))
    elif isinstance(detail, list):
        for inner in detail:
            yield from _flat(inner, path)
    else:
        yield path, str(detail)
