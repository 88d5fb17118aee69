"""Signed heads told outside: a real syslog socket, a real HTTP server, and what happens without either."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from pytest_django import Settings

from leasing.actors import SYSTEM
from leasing.audit.anchor import Head, read_heads
from leasing.audit.log import record
from leasing.audit.sealer import seal
from leasing.audit.sinks import LONGEST_PAUSE, Sink, Syslog, Webhook, configured_sinks, tell_sinks
from leasing.keys import portal_signing_key
from leasing.models import HeadDelivery, TreeHead
from tests.domain.ground import NOW
from tools.servers import free_port

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def sealed() -> None:
    for number in range(3):
        record(action="test", actor=SYSTEM, subject=f"test:{number}", now=NOW)
    seal(NOW)


class Listener(BaseHTTPRequestHandler):
    """Keeps what it was sent, and answers as its server says."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, body))  # type: ignore[attr-defined]
        status = self.server.answers.pop(0) if self.server.answers else 204  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_given: object) -> None:
        """Not on the test's output."""


@contextmanager
def listening(*answers: int) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    server = HTTPServer(("127.0.0.1", 0), Listener)
    server.heard, server.answers = [], list(answers)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/heads", server.heard  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def delivery(sink: str) -> HeadDelivery:
    return HeadDelivery.objects.get(sink=sink)


def check(head: Head) -> None:
    row = TreeHead.objects.latest("size")
    assert (head.size, head.root_hash) == (row.size, row.root_hash)
    assert head.is_signed_by(portal_signing_key().verify_key)


def test_syslog_is_told_over_udp(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        tell_sinks(NOW, [Syslog(f"udp://127.0.0.1:{listener.getsockname()[1]}")])
        line = listener.recv(4096)
    assert line.startswith(b"<109>1 2026-03-02T09:00:00+00:00 ")
    kept = tmp_path / "syslog"
    kept.write_bytes(line)
    check(*read_heads(kept))
    assert (delivery("syslog").size, delivery("syslog").delivered_at) == (3, NOW)


def test_syslog_is_told_over_its_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(10)
        tell_sinks(NOW, [Syslog(str(path))])
        assert b" leasehold - audit-head - {" in listener.recv(4096)


def test_a_webhook_is_told_each_head_once() -> None:
    with listening() as (url, heard):
        tell_sinks(NOW, [Webhook(url)])
        tell_sinks(NOW + timedelta(days=1), [Webhook(url)])
        ((path, body),) = heard
        assert path == "/heads"
        check(msgspec.json.decode(body, type=Head))
        record(action="test", actor=SYSTEM, subject="test:9", now=NOW)
        seal(NOW)
        tell_sinks(NOW + timedelta(days=1), [Webhook(url)])
        assert msgspec.json.decode(heard[-1][1], type=Head).size == 4


def test_what_is_refused_is_told_again_ever_more_rarely_and_then_only_the_newest() -> None:
    with listening(503, 500, 302) as (url, heard):
        at, told = NOW, []
        for _try in range(3):
            tell_sinks(at, [Webhook(url)])
            row = delivery("webhook")
            told.append((row.next_try_at - at).total_seconds())
            tell_sinks(row.next_try_at - timedelta(seconds=1), [Webhook(url)])
            at = row.next_try_at
        assert told == [10, 20, 40]
        assert [path for path, _body in heard] == ["/heads"] * 3  # nor is a redirect followed
        assert (delivery("webhook").size, delivery("webhook").failures) == (0, 3)
        assert "302" in delivery("webhook").error
        record(action="test", actor=SYSTEM, subject="test:9", now=NOW)
        seal(NOW)
        tell_sinks(at, [Webhook(url)])
        assert msgspec.json.decode(heard[-1][1], type=Head).size == 4
        assert (delivery("webhook").size, delivery("webhook").failures, delivery("webhook").error) == (
            4,
            0,
            "",
        )


def test_nobody_listening_keeps_nothing_from_being_sealed(tmp_path: Path) -> None:
    sinks: list[Sink] = [Webhook(f"http://127.0.0.1:{free_port()}/"), Syslog(str(tmp_path / "none"))]
    for _try in range(20):
        tell_sinks(NOW + _try * LONGEST_PAUSE, sinks)
    for sink in ("webhook", "syslog"):
        assert delivery(sink).failures == 20
        assert delivery(sink).next_try_at == NOW + 20 * LONGEST_PAUSE
    record(action="test", actor=SYSTEM, subject="test:9", now=NOW)
    assert seal(NOW) == 1


def test_sinks_are_those_that_are_configured(settings: Settings) -> None:
    assert configured_sinks() == []
    settings.AUDIT_SYSLOG, settings.AUDIT_WEBHOOK = "/dev/log", "https://witness.example/heads"
    assert configured_sinks() == [Syslog("/dev/log"), Webhook("https://witness.example/heads")]
    settings.AUDIT_WEBHOOK = "http://witness.example/heads"
    with pytest.raises(ValueError, match="https://"):
        configured_sinks()
