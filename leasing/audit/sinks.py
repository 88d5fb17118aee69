"""Where signed heads are told to outside, besides the anchor file: syslog and a webhook.

A head covers all entries before it, so a sink is only ever told the newest one. Nothing waits for a sink:
what fails is tried again, ever more rarely, by a task of its own.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.client import HTTPException
from typing import Protocol
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import msgspec
from django.conf import settings
from django.db import transaction

from leasing.audit.anchor import Head
from leasing.locking import locked
from leasing.models import HeadDelivery, TreeHead

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 3.0
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=10), timedelta(hours=1)
# RFC 5424: facility 13, “log audit”, severity 5, “notice”.
PRIORITY = 13 * 8 + 5
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Sink(Protocol):
    """A place outside. `tell` returns once the head was handed over, or raises SinkFailed."""

    @property
    def name(self) -> str: ...

    def tell(self, head: Head) -> None: ...


class SinkFailed(Exception):
    """The head was not taken."""


@dataclass(frozen=True)
class Syslog:
    """`/dev/log`, or another unix socket, or `udp://host:port`. Nobody answers: a datagram may be lost."""

    target: str
    name: str = "syslog"

    def tell(self, head: Head) -> None:
        text = msgspec.json.encode(head).decode()
        at, host = head.signed_at.isoformat(), socket.gethostname()
        line = f"<{PRIORITY}>1 {at} {host} leasehold - audit-head - {text}".encode()
        try:
            if self.target.startswith("/"):
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix:
                    unix.settimeout(TIMEOUT_SECONDS)
                    unix.connect(self.target)
                    unix.send(line)
                return
            parts = urlsplit(self.target)
            family, kind, number, _, address = socket.getaddrinfo(
                parts.hostname, parts.port or 514, type=socket.SOCK_DGRAM
            )[0]
            with socket.socket(family, kind, number) as udp:
                udp.sendto(line, address)
        except OSError as error:
            raise SinkFailed(str(error)) from error


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_given: object) -> None:
        """None lets the answer through, which is an error then."""


@dataclass(frozen=True)
class Webhook:
    """The head as JSON, by POST. The head is signed, so the request need not be."""

    url: str
    name: str = "webhook"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ValueError("LEASEHOLD_AUDIT_WEBHOOK must begin with https://")

    def tell(self, head: Head) -> None:
        request = Request(  # noqa: S310 - https, or this machine
            self.url, msgspec.json.encode(head), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with build_opener(_NoRedirects).open(request, timeout=TIMEOUT_SECONDS):
                return
        except (URLError, OSError, HTTPException) as error:
            raise SinkFailed(str(error)) from error


def configured_sinks() -> list[Sink]:
    sinks: list[Sink] = []
    if settings.AUDIT_SYSLOG:
        sinks.append(Syslog(settings.AUDIT_SYSLOG))
    if settings.AUDIT_WEBHOOK:
        sinks.append(Webhook(settings.AUDIT_WEBHOOK))
    return sinks


def tell_sinks(now: datetime, sinks: Iterable[Sink] | None = None) -> None:
    """Tell each sink whose time it is the newest head, unless it knows it."""
    newest = TreeHead.objects.last()
    if newest is None:
        return
    for sink in configured_sinks() if sinks is None else sinks:
        if _claim(sink, newest.size, now=now):
            _tell(sink, Head.of_row(newest), now=now)


@transaction.atomic
def _claim(sink: Sink, size: int, *, now: datetime) -> bool:
    """Whether it is due. The next try is noted before this one, so that two workers do not both do it."""
    HeadDelivery.objects.get_or_create(sink=sink.name, defaults={"next_try_at": now})
    row = locked(HeadDelivery.objects.filter(sink=sink.name, size__lt=size, next_try_at__lte=now)).first()
    if row is None:
        return False
    row.next_try_at = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(row.failures, 10))
    row.save(update_fields=["next_try_at"])
    return True


def _tell(sink: Sink, head: Head, *, now: datetime) -> None:
    row = HeadDelivery.objects.filter(sink=sink.name)
    try:
        sink.tell(head)
    except SinkFailed as error:
        log.warning("The head of %s entries was not taken by %s: %s", head.size, sink.name, error)
        failures = row.values_list("failures", flat=True).get() + 1
        row.update(failures=failures, error=str(error)[:300])
    else:
        row.update(size=head.size, delivered_at=now, failures=0, error="")
