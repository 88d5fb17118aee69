"""Speaks with the portal over HTTPS, for enrolment and images; everything else goes through the broker."""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

SECONDS = 30.0
ANSWER_AT_MOST = 64 * 1024
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


class PortalError(Exception):
    """The portal did not give what was asked for: what happened, and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotAsked(PortalError):
    """Nothing was sent."""


class NoAnswer(PortalError):
    """It is not known whether the portal has heard us."""


class NotReached(NotAsked, NoAnswer):
    """There was no way to the portal."""


class Declined(PortalError):
    """The portal has heard us, and says no: nothing was changed there."""


def post(portal: str, path: str, body: Mapping[str, Any], *, ca_file: str = "") -> dict[str, Any]:
    """The portal's JSON answer. NotAsked, NoAnswer, Declined, or PortalError if it is not a portal."""
    connection = connect(portal, ca_file=ca_file)
    try:
        connection.request("POST", path, json.dumps(body), HEADERS)
        response = connection.getresponse()
        text = response.read(ANSWER_AT_MOST)
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{portal} did not answer: {reason_of(error)}.", "Run this again.") from error
    finally:
        connection.close()
    return _read(portal, response, text)


def connect(portal: str, *, ca_file: str = "") -> http.client.HTTPConnection:
    """A connection to be closed. NotAsked says why there is none."""
    connection = _connection(portal, ca_file)
    try:
        _connect(connection, portal)
    except PortalError:
        connection.close()
        raise
    return connection


def check_address(portal: str) -> None:
    """NotAsked unless it is https://…, or http:// to this machine itself."""
    parts = urlsplit(portal)
    if not parts.hostname or parts.username or parts.path.strip("/") or parts.query:
        raise NotAsked(f"{portal!r} is not the address of a portal.", "Such as https://portal.example")
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
        return
    raise NotAsked(
        f"{portal} is not encrypted: what the portal answers could be read and changed on the way.",
        "Use https://; http:// is for a portal on this machine alone.",
    )


def _connection(portal: str, ca_file: str) -> http.client.HTTPConnection:
    check_address(portal)
    parts = urlsplit(portal)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=SECONDS)
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise NotAsked(f"{ca_file} is not a certificate that can be used: {error}") from error
    return http.client.HTTPSConnection(host, parts.port, timeout=SECONDS, context=context)


def _connect(connection: http.client.HTTPConnection, portal: str) -> None:
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        raise NotAsked(
            f"The certificate of {portal} is not trusted: {error.verify_message}.",
            "If your site has a certificate authority of its own, name its certificate with --ca-file.",
        ) from error
    except OSError as error:
        raise NotReached(
            f"{portal} cannot be reached: {reason_of(error)}.",
            "Check the address and the way there, then run this again.",
        ) from error


def reason_of(error: Exception) -> str:
    """What is wrong with the way there, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(portal: str, response: http.client.HTTPResponse, text: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and response.status in (200, 201):
        return answer
    if isinstance(answer, dict) and response.status in (400, 403, 404, 409):
        raise Declined(
            f"The portal says: {answer.get('detail') or response.reason}", str(answer.get("hint") or "")
        )
    if response.status == http.HTTPStatus.TOO_MANY_REQUESTS:
        seconds = response.headers.get("Retry-After", "some")
        raise NoAnswer("The portal is asked too often from here.", f"Run this again in {seconds} seconds.")
    if response.status in range(300, 400):
        there = response.headers.get("Location", "somewhere else")
        raise PortalError(f"{portal} sends us to {there}.", "Name the portal's own address.")
    raise NoAnswer(
        f"{portal} answers {response.status} {response.reason}.",
        "See whether the portal works; then run this again.",
    )
