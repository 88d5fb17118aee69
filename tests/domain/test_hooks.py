"""Webhooks: signed, to public addresses alone, again until taken, and never for long."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from leasing.actors import Actor
from leasing.audit.verifier import verify_log
from leasing.errors import InvalidRequest
from leasing.hook_client import HookRefused, may_reach, post, resolve
from leasing.hooks import (
    ATTEMPTS,
    LONGEST_PAUSE,
    choose_ways,
    notices_for_browser,
    remove_hook,
    send_due_hooks,
    set_hook,
    try_hook,
)
from leasing.models import AuditEntry, HookDelivery, NoticeSettings, Notification
from leasing.notice_topics import Topic
from leasing.notices import notify, send_due_notices
from tests.domain.ground import NOW, Ground

ALL = [topic.value for topic in Topic]


@dataclass
class Receiver:
    """A real HTTPS server on this machine: what it was sent, and what it shall answer."""

    port: int = 0
    status: int = 200
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/notices?of=ada"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, crt = folder / "key.pem", folder / "crt.pem"
    made = ["-x509", "-newkey", "ed25519", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    where = ["-keyout", str(key), "-out", str(crt)]
    subprocess.run(["openssl", "req", *made, *names, *where], check=True, capture_output=True)
    return key, crt


@pytest.fixture
def receiver(certificate: tuple[Path, Path], settings: Settings) -> Iterator[Receiver]:
    """Allowed by the site's operators, for it is on this machine."""
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.requests.append((dict(self.headers), body))
            self.send_response(made.status)
            if made.status in range(300, 400):
                self.send_header("Location", "https://localhost/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    key, crt = certificate
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made.port = server.server_address[1]
    settings.WEBHOOK_CA_FILE = str(crt)
    settings.WEBHOOK_NETWORKS = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def ada(ground: Ground) -> Actor:
    return Actor.of_person(ground.person)


def write(ground: Ground, kind: str = "lease-running", subject: str = "It runs") -> Notification:
    return notify(recipient=ground.person, kind=kind, subject=subject, body="See its page.", now=NOW)


def test_a_notice_arrives_signed(ground: Ground, receiver: Receiver) -> None:
    secret = set_hook(actor=ada(ground), url=receiver.url, now=NOW)
    notice = write(ground)
    assert receiver.requests == []
    assert send_due_hooks(now=NOW) == 1
    assert send_due_hooks(now=NOW + timedelta(days=1)) == 0
    ((headers, body),) = receiver.requests
    at, proof = (part.split("=")[1] for part in headers["Leasehold-Signature"].split(","))
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(proof, signed)
    assert int(at) == int(NOW.timestamp())
    told = json.loads(body)
    assert (told["id"], told["topic"], told["subject"]) == (str(notice.pk), "ready", "It runs")
    assert headers["Leasehold-Delivery"] == str(notice.pk)
    assert HookDelivery.objects.get().taken_at == NOW


def test_the_secret_is_nowhere_to_be_read(ground: Ground, receiver: Receiver) -> None:
    secret = set_hook(actor=ada(ground), url=receiver.url, now=NOW)
    row = NoticeSettings.objects.get()
    kept = json.dumps([*map(str, NoticeSettings.objects.values().get().values())])
    assert secret not in kept
    assert secret not in "".join(AuditEntry.objects.values_list("text", flat=True))
    NoticeSettings.objects.filter(pk=row.pk).update(sealed_secret="ab" * 60)
    with pytest.raises(HookRefused, match="secret-lost"):
        try_hook(actor=ada(ground), now=NOW)


def test_what_is_not_taken_is_sent_again_then_given_up(ground: Ground, receiver: Receiver) -> None:
    set_hook(actor=ada(ground), url=receiver.url, now=NOW)
    write(ground)
    write(ground, subject="Later")
    receiver.status, now = 500, NOW
    for attempt in range(1, ATTEMPTS + 1):
        assert send_due_hooks(now=now) == 0
        assert len(receiver.requests) == attempt
        send_due_hooks(now=now)  # The other one waits as well: the address is left in peace.
        assert len(receiver.requests) == attempt
        now += LONGEST_PAUSE
    first = HookDelivery.objects.order_by("pk")[0]
    later = HookDelivery.objects.order_by("pk")[1]
    assert {first.answer, later.answer} == {"500"}
    receiver.status = 204
    while HookDelivery.objects.filter(next_send_at__isnull=False).exists():
        send_due_hooks(now=now)
        now += LONGEST_PAUSE
    assert NoticeSettings.objects.get().failures == 0
    assert verify_log().problems == []


def test_a_redirect_is_not_followed(ground: Ground, receiver: Receiver) -> None:
    set_hook(actor=ada(ground), url=receiver.url, now=NOW)
    receiver.status = 307
    answer = try_hook(actor=ada(ground), now=NOW)
    assert (answer.status, answer.is_taken) == (307, False)
    assert len(receiver.requests) == 1


def test_each_topic_goes_its_own_ways(ground: Ground, receiver: Receiver, mailoutbox: list[Any]) -> None:
    set_hook(actor=ada(ground), url=receiver.url, now=NOW)
    start, _none = notices_for_browser(ground.person, after=None)
    ways = {"email": ["ending"], "browser": ["failed"], "webhook": ["waitlist"]}
    choose_ways(actor=ada(ground), ways=ways, now=NOW)
    for kind in ("lease-ends-soon", "lease-fail", "waitlist-offer", "budget-warning"):
        write(ground, kind=kind, subject=kind)
    send_due_notices(now=NOW)
    send_due_hooks(now=NOW)
    assert [mail.subject for mail in mailoutbox] == ["lease-ends-soon"]
    assert [json.loads(body)["subject"] for _headers, body in receiver.requests] == ["waitlist-offer"]
    newest, shown = notices_for_browser(ground.person, after=start)
    assert [notice.subject for notice in shown] == ["lease-fail"]
    assert notices_for_browser(ground.person, after=newest) == (newest, [])
    with pytest.raises(InvalidRequest):
        choose_ways(actor=ada(ground), ways={**ways, "email": ["everything"]}, now=NOW)


def test_without_an_address_nothing_is_sent(ground: Ground, receiver: Receiver) -> None:
    set_hook(actor=ada(ground), url=receiver.url, now=NOW)
    write(ground)
    remove_hook(actor=ada(ground), now=NOW)
    write(ground)
    assert send_due_hooks(now=NOW) == 0
    assert not HookDelivery.objects.exists()
    assert receiver.requests == []


def test_who_is_locked_out_is_sent_nothing(ground: Ground, receiver: Receiver) -> None:
    set_hook(actor=ada(ground), url=receiver.url, now=NOW)
    write(ground)
    ground.person.is_active = False
    ground.person.save()
    assert send_due_hooks(now=NOW) == 0
    assert receiver.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/", "ftp://example.org/", "https://", "https:///x", "//example.org", "file:///etc/passwd",
        "https://user:word@example.org/", "https://example.org/#x", "https://example.org:0/",
        "https://example.org:99999/", "https://exämple.org/", "https://example.org/\r\nX: y", "https://[::1",
        "https://example.org/" + "x" * 600, "",
    ],
)  # fmt: skip
def test_what_is_no_plain_https_address_is_refused(ground: Ground, url: str) -> None:
    with pytest.raises(InvalidRequest):
        set_hook(actor=ada(ground), url=url, now=NOW)
    assert not NoticeSettings.objects.filter(url__gt="").exists()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1",
        "fe80::1", "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
        "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_not_reached(address: str) -> None:
    assert not may_reach(ip_address(address))


def test_public_addresses_are_reached() -> None:
    assert all(may_reach(ip_address(each)) for each in ("1.1.1.1", "93.184.216.34", "2606:4700::1111"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0", "[::1]"])
def test_no_way_of_writing_this_machine_leads_here(receiver: Receiver, settings: Settings, host: str) -> None:
    settings.WEBHOOK_NETWORKS = []
    with pytest.raises(HookRefused):
        post(f"https://{host}:{receiver.port}/", b"{}", {})
    assert receiver.requests == []


def test_one_private_address_among_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a resolver answers that wants to be asked twice."""
    answers = [(0, 0, 0, "", (address, 443)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr("leasing.hook_client.getaddrinfo", lambda *_args, **_named: answers)
    with pytest.raises(HookRefused, match="private"):
        resolve("twofold.example", 443)


def test_a_certificate_of_nobody_is_refused(receiver: Receiver, settings: Settings) -> None:
    settings.WEBHOOK_CA_FILE = ""
    with pytest.raises(HookRefused, match="certificate"):
        post(receiver.url, b"{}", {})
    assert receiver.requests == []


def test_who_never_answers_is_cut_off(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection, and then says nothing at all."""
    settings.WEBHOOK_NETWORKS = [ip_network("127.0.0.0/8")]
    monkeypatch.setattr("leasing.hook_client.SECONDS", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(HookRefused, match=r"too-late|no-answer"),
    ):
        post(f"https://127.0.0.1:{silent.getsockname()[1]}/", b"{}", {})
