"""Who reads: the signed-in person's zone and language, and the actor that goes into the audit log."""

from __future__ import annotations

import re
import uuid
import zoneinfo
from collections.abc import Callable

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone, translation
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

from leasing.actors import Actor
from leasing.errors import DomainError
from leasing.models import Person
from portal.addresses import true_address
from portal.pages.errors import domain_error_page

Respond = Callable[[HttpRequest], HttpResponseBase]
SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


class PersonRequest(HttpRequest):
    """A request of somebody who has signed in, as ReaderMiddleware leaves it."""

    user: Person
    actor: Actor
    request_id: str


class StaticFilesMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]
    """WhiteNoise with the whole file as the answer: under ASGI, Django has no use for its open files."""

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> HttpResponse:
        found = static_file.get_response(request.method, request.META)
        content = b""
        if found.file is not None:
            with found.file as file:
                content = file.read()
        return HttpResponse(content, status=int(found.status), headers=dict(found.headers))


class ClientAddressMiddleware:
    """Puts the client's own address in the place of its proxy's, for everything that counts or records it."""

    def __init__(self, get_response: Respond) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.META["REMOTE_ADDR"] = true_address(
            client_address(request), request.headers.get("X-Forwarded-For", ""), settings.TRUSTED_PROXIES
        )
        return self.get_response(request)


class ReaderMiddleware:
    """Numbers the request, and lets everything below speak the person's language in their zone."""

    def __init__(self, get_response: Respond) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get("X-Request-ID", "")
        number = given if SAFE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        request.request_id = number  # type: ignore[attr-defined]
        response = self._respond(request)
        response.headers["X-Request-ID"] = number
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return domain_error_page(request, error) if isinstance(error, DomainError) else None

    def _respond(self, request: HttpRequest) -> HttpResponseBase:
        if settings.SESSION_COOKIE_NAME not in request.COOKIES or isinstance(request.user, AnonymousUser):
            return self.get_response(request)
        request.actor = actor_of(request, request.user)  # type: ignore[attr-defined]
        language = request.user.language or translation.get_language()
        with timezone.override(zoneinfo.ZoneInfo(request.user.timezone)), translation.override(language):
            response = self.get_response(request)
            response.headers.setdefault("Content-Language", translation.get_language())
            response.headers.setdefault("Cache-Control", "private, no-store")
            return response


def client_address(request: HttpRequest) -> str:
    return request.META.get("REMOTE_ADDR") or ""


def request_number(request: HttpRequest) -> str:
    return getattr(request, "request_id", "")


def actor_of(request: HttpRequest, person: Person, *, token: str = "") -> Actor:
    """The person as the author of what this request does."""
    address, number = client_address(request), request_number(request)
    return Actor.of_person(person, address=address, request_id=number, token=token)


def stranger_of(request: HttpRequest) -> Actor:
    """Whoever sends a request without having shown who they are."""
    return Actor.of_nobody(address=client_address(request), request_id=request_number(request))
