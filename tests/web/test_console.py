"""The console gateway over real sockets: who is admitted, what is relayed, and when it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest
from django.contrib.sessions.models import Session
from nacl.public import PrivateKey
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from hosts.models import Host
from hosts.protocol.signing import public_hex, unseal
from leasing import policy
from leasing.actors import SYSTEM
from leasing.console import OpenedConsole, open_console
from leasing.ending import end_lease
from leasing.models import ConsoleSession, OutboxMessage
from portal.console import relay
from tests.web.scenes import Scene
from tests.web.site import Site, session_cookie, wait_until

pytestmark = pytest.mark.django_db

FIVE_SECONDS = 5.0
GREETING = b"RFB 003.008\n"


class Desk:
    """One console being opened: what the browser and the host each were told."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cookie = site.session_of(site.scene.ada)
        key = PrivateKey.generate()
        self.opened: OpenedConsole = site.do(lambda scene: _open(scene, self.cookie, key))
        self.token = site.do(lambda _scene: _token(self.opened.session_id, key))

    def browser(
        self, *, cookie: str | None = None, ticket: str = "", origin: str = "", session: str = ""
    ) -> ClientConnection:
        url = f"{self.site.websocket_url}/ws/console/{session or self.opened.session_id}/"
        return connect(
            url,
            origin=Origin(origin or self.site.url),
            subprotocols=[Subprotocol("binary"), Subprotocol(f"ticket.{ticket or self.opened.ticket}")],
            additional_headers={"Cookie": session_cookie(self.cookie if cookie is None else cookie)},
            compression=None,
            close_timeout=1,
        )

    def host(self, *, token: str | None = None) -> ClientConnection:
        url = f"{self.site.websocket_url}/ws/host-console/{self.opened.session_id}/"
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return connect(url, additional_headers=headers, compression=None, close_timeout=1)


def _open(scene: Scene, session_key: str, key: PrivateKey) -> OpenedConsole:
    Host.objects.filter(pk=scene.host.row.pk).update(sealing_key=public_hex(key))
    scene.now = datetime.now(UTC)
    return open_console(
        actor=scene.actor(scene.ada), lease_id=scene.active.pk, session_key=session_key, now=scene.now
    )


def _token(session_id: UUID, key: PrivateKey) -> str:
    """The token as the host unseals it from its command."""
    messages = OutboxMessage.objects.filter(kind="console").order_by("-created_at")
    goals = [json.loads(message.goal) for message in messages]
    goal = next(goal for goal in goals if goal["session_id"] == str(session_id))
    return unseal(goal["sealed_token"], key=key).decode()


@pytest.fixture
def desk(site: Site) -> Desk:
    return Desk(site)


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(InvalidStatus) as caught:
        yield
    assert caught.value.response.status_code == 403


def read_on(socket: ClientConnection, *, timeout: float) -> None:
    while True:
        socket.recv(timeout=timeout)


def assert_closed(socket: ClientConnection, code: int, *, within: float = FIVE_SECONDS) -> None:
    began = time.monotonic()
    with pytest.raises(ConnectionClosed) as caught:
        read_on(socket, timeout=within)
    assert time.monotonic() - began < within
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == code


def test_bytes_pass_both_ways_unchanged(desk: Desk) -> None:
    with desk.browser() as browser, desk.host() as host:
        assert browser.subprotocol == "binary"
        assert not browser.protocol.extensions
        host.send(GREETING)
        assert browser.recv(timeout=5) == GREETING
        picture = bytes(range(256)) * 4000
        browser.send(picture)
        assert host.recv(timeout=5) == picture


def test_the_host_may_come_first(desk: Desk) -> None:
    with desk.host() as host:
        host.send(GREETING)
        with desk.browser() as browser:
            assert browser.recv(timeout=5) == GREETING


def test_when_one_side_leaves_the_other_is_told(desk: Desk) -> None:
    with desk.browser() as browser, desk.host() as host:
        host.send(GREETING)
        browser.recv(timeout=5)
        browser.close()
        assert_closed(host, relay.NORMAL)
    open_ones = ConsoleSession.objects.filter(pk=desk.opened.session_id, closed_at=None)
    wait_until(lambda: not desk.site.do(lambda _scene: open_ones.exists()))


def test_a_ticket_is_good_once(desk: Desk) -> None:
    with desk.browser(), refused():
        desk.browser()


def test_a_token_is_good_once(desk: Desk) -> None:
    with desk.browser(), desk.host(), refused():
        desk.host()


def test_only_the_browser_that_asked_is_admitted(desk: Desk) -> None:
    others = desk.site.session_of(desk.site.scene.bob)
    attempts = (
        {"cookie": others},
        {"cookie": ""},
        {"ticket": "guessed"},
        {"origin": "https://elsewhere.example"},
    )
    for attempt in attempts:
        with refused():
            desk.browser(**attempt)
    with refused():
        desk.host(token="guessed")
    with desk.browser() as browser, desk.host() as host:
        host.send(GREETING)
        assert browser.recv(timeout=5) == GREETING


def test_a_ticket_opens_no_other_session(desk: Desk) -> None:
    with refused():
        desk.browser(session=str(uuid4()))


def test_odd_addresses_are_refused(site: Site) -> None:
    for path in ("/ws/console/42/", "/ws/elsewhere/", "/ws/host-console/", f"/ws/console/{uuid4()}"):
        with refused():
            connect(f"{site.websocket_url}{path}")


def test_losing_the_role_closes_the_console_within_five_seconds(desk: Desk) -> None:
    with desk.browser() as browser, desk.host() as host:
        host.send(GREETING)
        browser.recv(timeout=5)
        desk.site.do(
            lambda scene: policy.revoke_role(
                actor=SYSTEM, person=scene.ada, tenant=scene.studio, role="member", now=scene.now
            )
        )
        assert_closed(browser, relay.REVOKED)
        assert_closed(host, relay.REVOKED)


def test_the_end_of_the_lease_closes_the_console(desk: Desk) -> None:
    with desk.browser() as browser, desk.host():
        desk.site.do(
            lambda scene: end_lease(actor=scene.actor(scene.ada), lease_id=scene.active.pk, now=scene.now)
        )
        assert_closed(browser, relay.REVOKED)


def test_signing_out_closes_the_console(desk: Desk) -> None:
    with desk.browser() as browser, desk.host():
        desk.site.do(lambda _scene: Session.objects.filter(session_key=desk.cookie).delete())
        assert_closed(browser, relay.REVOKED)


def test_a_browser_whose_host_never_comes_is_told(desk: Desk) -> None:
    with patch.object(relay, "ADMISSION_SECONDS", 0.5), desk.browser() as browser:
        assert_closed(browser, relay.ABSENT)


def test_a_console_that_nobody_uses_is_closed(desk: Desk) -> None:
    with patch.object(relay, "IDLE_SECONDS", 0.5), desk.browser() as browser, desk.host():
        assert_closed(browser, relay.IDLE)


def test_text_ends_the_console(desk: Desk) -> None:
    with desk.browser() as browser, desk.host():
        browser.send("words")
        assert_closed(browser, relay.NORMAL)


def test_a_viewer_that_stalls_holds_the_host_back(desk: Desk) -> None:
    """What the host may send ahead is bounded by sockets, not by our memory."""
    frame = bytes(64 * 1024)
    with desk.browser() as browser, desk.host() as host:
        host.send(GREETING)
        assert browser.recv(timeout=5) == GREETING
        host.socket.settimeout(2)
        assert sent_until_held_back(host, frame, most=2000) * len(frame) < 64 * 2**20


def sent_until_held_back(host: ClientConnection, frame: bytes, *, most: int) -> int:
    for count in range(most):
        try:
            host.send(frame)
        except (TimeoutError, ConnectionClosed):
            return count
    return most
