"""Visits to the site with a real Chromium, and a host that draws one picture."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from django.conf import settings
from nacl.public import PrivateKey
from playwright.sync_api import Browser, BrowserContext, Page, expect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from hosts.models import Host
from hosts.protocol.signing import public_hex, unseal
from leasing.models import Lease, OutboxMessage, Person
from tests.web.scenes import Scene
from tests.web.site import Site
from tools.pace import slowness

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 20_000 * slowness()
expect.set_options(timeout=5_000 * slowness())
WIDTH, HEIGHT = 64, 48
PICTURE_COLOUR = (16, 160, 96)
KEY_EVENT, POINTER_EVENT, UPDATE_REQUEST, SET_ENCODINGS, SET_PIXEL_FORMAT = 4, 5, 3, 2, 0


@dataclass
class Visits:
    """Contexts of one browser, one per person and device."""

    browser: Browser
    site: Site
    contexts: list[BrowserContext] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    kept: dict[Person | None, Page] = field(default_factory=dict)

    def page(self, person: Person | None = None, *, width: int = 1280, javascript: bool = True) -> Page:
        """A new page on that person's own browser, signed in unless nobody is named."""
        context = self.browser.new_context(
            viewport={"width": width, "height": 800}, base_url=self.site.url, java_script_enabled=javascript,
            accept_downloads=True,
        )  # fmt: skip
        context.set_default_timeout(PATIENCE_MS)
        self.contexts.append(context)
        if person is not None:
            key = self.site.session_of(person)
            cookie = {"name": settings.SESSION_COOKIE_NAME, "value": key, "url": self.site.url}
            context.add_cookies([cookie])  # type: ignore[list-item]
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._hear)
        return page

    def of(self, person: Person | None) -> Page:
        """The same page each time, for whoever visits many."""
        if person not in self.kept:
            self.kept[person] = self.page(person)
        return self.kept[person]

    def leave(self) -> None:
        for context in self.contexts:
            context.close()
        assert not self.complaints, self.complaints

    def _hear(self, message: object) -> None:
        text = str(getattr(message, "text", message))
        if "Content Security Policy" in text or "Refused to" in text:
            self.complaints.append(text)


@dataclass
class PictureHost:
    """The host's side of one console: dials the gateway, shows a single colour, hears the keys."""

    site: Site
    key: PrivateKey = field(default_factory=PrivateKey.generate)
    keys_heard: list[int] = field(default_factory=list)
    thread: threading.Thread | None = None

    def prepare(self) -> None:
        self.site.do(self._give_key)

    def answer(self, lease: Lease) -> bool:
        """Carry out the console command, if it has come."""
        goal = self.site.do(lambda _scene: self._command(lease))
        if goal is None:
            return False
        token = unseal(goal["sealed_token"], key=self.key).decode()
        url = f"{self.site.websocket_url}/ws/host-console/{goal['session_id']}/"
        self.thread = threading.Thread(target=self._relay, args=[url, token], daemon=True)
        self.thread.start()
        return True

    def _give_key(self, scene: Scene) -> None:
        Host.objects.filter(pk=scene.host.row.pk).update(sealing_key=public_hex(self.key))

    def _command(self, lease: Lease) -> dict[str, str] | None:
        message = OutboxMessage.objects.filter(lease=lease, kind="console").order_by("-created_at").first()
        return json.loads(message.goal) if message else None

    def _relay(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        with suppress(ConnectionClosed), connect(url, additional_headers=headers, compression=None) as socket:
            stream = ByteStream(socket)
            _greet(stream)
            while True:
                self._hear(stream)

    def _hear(self, stream: ByteStream) -> None:
        """One message of the viewer; lengths are those of RFC 6143, section 7.5."""
        kind = stream.read(1)[0]
        if kind == SET_ENCODINGS:
            stream.read(4 * struct.unpack(">xH", stream.read(3))[0])
            return
        body = stream.read({SET_PIXEL_FORMAT: 19, UPDATE_REQUEST: 9, KEY_EVENT: 7, POINTER_EVENT: 5}[kind])
        if kind == UPDATE_REQUEST and not body[0]:
            stream.socket.send(_picture())
        if kind == KEY_EVENT and body[0]:
            self.keys_heard.append(struct.unpack(">I", body[3:])[0])


@dataclass
class ByteStream:
    """The socket's messages as the stream of bytes that they carry."""

    socket: ClientConnection
    kept: bytes = b""

    def read(self, count: int) -> bytes:
        while len(self.kept) < count:
            said = self.socket.recv()
            assert isinstance(said, bytes)
            self.kept += said
        taken, self.kept = self.kept[:count], self.kept[count:]
        return taken


def _greet(stream: ByteStream) -> None:
    """RFB 3.8 without a password, as a console on a private socket speaks it."""
    stream.socket.send(b"RFB 003.008\n")
    assert stream.read(12) == b"RFB 003.008\n"
    stream.socket.send(b"\x01\x01")
    assert stream.read(1) == b"\x01"
    stream.socket.send(struct.pack(">I", 0))
    stream.read(1)
    pixel_format = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
    name = b"picture"
    size = struct.pack(">HH", WIDTH, HEIGHT)
    stream.socket.send(size + pixel_format + struct.pack(">I", len(name)) + name)


def _picture() -> bytes:
    header = struct.pack(">BxHHHHHi", 0, 1, 0, 0, WIDTH, HEIGHT, 0)
    return header + bytes([*PICTURE_COLOUR, 255]) * (WIDTH * HEIGHT)


def run_apart(story: Coroutine[None, None, None]) -> None:
    """On a thread of its own: where there is a browser, its driver keeps an event loop on this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, story).result()
