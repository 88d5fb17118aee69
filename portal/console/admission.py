"""Who may open a console socket: the browser's origin, credential and ticket, or the host's token."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.contrib.sessions.models import Session
from django.http.request import split_domain_port, validate_host
from django.utils import timezone
from knox.models import AuthToken
from rest_framework.exceptions import AuthenticationFailed

from leasing import console
from portal.api.authentication import ApiTokenAuthentication
from portal.threads import in_database_thread

TICKET_PREFIX = "ticket."
TOKEN_KEY_PREFIX = "token:"  # noqa: S105 - a label, not a secret
Headers = Mapping[str, str]


def credential_of_token(token_key: str) -> str:
    """What stands for the session of somebody who uses the API with a token."""
    return f"{TOKEN_KEY_PREFIX}{token_key}"


def origin_allowed(headers: Headers) -> bool:
    """Browsers always send Origin: it must be this site. Programs with a token send none."""
    origin = headers.get("origin")
    if origin is None:
        return "authorization" in headers
    if origin in settings.CSRF_TRUSTED_ORIGINS:
        return True
    host = headers.get("host", "")
    domain, _port = split_domain_port(host)
    return urlsplit(origin).netloc == host and validate_host(domain, settings.ALLOWED_HOSTS)


def ticket_of(subprotocols: list[str]) -> str:
    offered = [name for name in subprotocols if name.startswith(TICKET_PREFIX)]
    return offered[0].removeprefix(TICKET_PREFIX) if offered else ""


@in_database_thread
def admit_browser(session_id: UUID, headers: Headers, ticket: str) -> str | None:
    """The credential under which the console was opened; None if this browser is not the one."""
    credential = credential_of(headers)
    if not credential or not ticket:
        return None
    session = console.admit_browser(ticket=ticket, session_key=credential, now=timezone.now())
    return credential if session is not None and session.pk == session_id else None


@in_database_thread
def admit_host(session_id: UUID, headers: Headers) -> bool:
    token = bearer_token(headers)
    if not token:
        return False
    return console.admit_host(session_id=session_id, token=token, now=timezone.now()) is not None


@in_database_thread
def still_admitted(session_id: UUID, credential: str) -> bool:
    """The lease runs, the person may use it, and has not signed out or lost the token."""
    return _alive(credential) and console.still_admitted(session_id)


@in_database_thread
def close_session(session_id: UUID) -> None:
    console.close_console(session_id=session_id, now=timezone.now())


def bearer_token(headers: Headers) -> str:
    """What a host shows; empty if it shows nothing."""
    scheme, _space, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def credential_of(headers: Headers) -> str:
    """What stands for a session or an API token that is alive; empty if there is none."""
    if "authorization" in headers and "origin" not in headers:
        return _token_credential(headers["authorization"])
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)
    except CookieError:
        return ""
    return cookie.value if cookie is not None and _alive(cookie.value) else ""


def _token_credential(authorization: str) -> str:
    scheme, _space, token = authorization.partition(" ")
    if scheme != "Token":
        return ""
    try:
        _person, row = ApiTokenAuthentication().authenticate_credentials(token.encode())
    except AuthenticationFailed:
        return ""
    return credential_of_token(row.token_key)


def _alive(credential: str) -> bool:
    now = timezone.now()
    if credential.startswith(TOKEN_KEY_PREFIX):
        tokens = AuthToken.objects.filter(token_key=credential.removeprefix(TOKEN_KEY_PREFIX))
        return bool(tokens.exclude(expiry__lte=now).exists())
    return Session.objects.filter(session_key=credential, expire_date__gt=now).exists()
