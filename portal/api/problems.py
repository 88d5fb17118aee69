"""Every error of the API as RFC 9457 problem details: what happened, what to do, which field."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from leasing.errors import DomainError, InvalidRequest, NotAllowed, NotVisible

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:leasehold:problem:"
STATUSES: dict[type[DomainError], int] = {NotVisible: 404, NotAllowed: 403, InvalidRequest: 400}


def status_of(error: DomainError) -> int:
    """What a domain error is in HTTP: a refusal that depends on the state of things is a conflict."""
    return next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 409)


def problem(
    status: int,
    detail: str,
    *,
    code: str = "",
    hint: str = "",
    errors: list[dict[str, str]] | None = None,
    reference: str = "",
) -> dict[str, Any]:
    """The members of a problem document. `errors` are {field, detail}; `hint` says what to do."""
    title = HTTPStatus(status).phrase
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + (code or title.lower().replace(" ", "-")),
        "title": title,
        "status": status,
        "detail": detail,
        "hint": hint or _hint(status),
        "errors": errors or [],
    }
    return body | ({"instance": f"urn:leasehold:request:{reference}"} if reference else {})


def plain_problem(request: HttpRequest, *, status: int, detail: str, hint: str = "") -> HttpResponse:
    """The same, where REST framework was not reached."""
    document = problem(status, detail, hint=hint, reference=getattr(request, "request_id", ""))
    return HttpResponse(json.dumps(document), status=status, content_type=MEDIA_TYPE)


def _hint(status: int) -> str:
    hints = {
        400: _("Correct what is named in “errors” and send it again; the schema is at /api/v1/schema/."),
        401: _("Send “Authorization: Token …”; make a token on your account page."),
        403: _("Ask somebody who may do this."),
        404: _("Check the address and the id; what is not yours looks the same as what is not there."),
        405: _("See “Allow” for the methods that can be used here."),
        406: _("Ask for application/json."),
        409: _("Read the current state, then decide again."),
        413: _("Send less."),
        415: _("Send application/json."),
        429: _("Wait as long as “Retry-After” says."),
    }
    return hints.get(status, _("Try again. If it stays, tell your operators and quote the reference."))
