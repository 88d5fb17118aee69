"""A whole portal for tests that need sockets: uvicorn in a thread, a database file of its own."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvicorn
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.db import connections
from django.test import override_settings

from leasing.models import Person
from tests.web.scenes import Scene
from tools.pace import slowness
from tools.servers import free_port

T = TypeVar("T")
START_SECONDS = 20 * slowness()
BACKEND = "django.contrib.auth.backends.ModelBackend"


@dataclass
class Site:
    """Where it is, and hands to move its world: `do` runs a function on the scene in its database."""

    url: str
    scene: Scene
    hands: ThreadPoolExecutor

    def do(self, act: Callable[[Scene], T]) -> T:
        return self.hands.submit(act, self.scene).result(timeout=60 * slowness())

    def session_of(self, person: Person) -> str:
        """The key of a new session of that person, as if they had signed in."""
        return self.do(lambda _scene: new_session(person))

    @property
    def websocket_url(self) -> str:
        return self.url.replace("http", "ws", 1)


@contextmanager
def serving(database: Path, scene: Scene) -> Iterator[Site]:
    """A site on a copy of the committed test database. Threads other than the test's use the copy."""
    row = connections.settings["default"]
    original = row["NAME"]
    _copy(Path(original), database)
    row["NAME"] = str(database)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    hands = ThreadPoolExecutor(1)
    try:
        with override_settings(SITE_URL=url, CSRF_TRUSTED_ORIGINS=[url]), _running(port):
            yield Site(url, scene, hands)
    finally:
        hands.submit(connections.close_all).result()
        hands.shutdown()
        row["NAME"] = original


@contextmanager
def _running(port: int) -> Iterator[None]:
    from portal.asgi import application

    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=port,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    started = threading.Event()
    startup = server.startup

    async def tell_when_started(sockets: object = None) -> None:
        await startup(sockets=None)
        started.set()

    server.startup = tell_when_started  # type: ignore[method-assign]
    thread.start()
    assert started.wait(START_SECONDS), "the site did not start"
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)


def _copy(source: Path, target: Path) -> None:
    with sqlite3.connect(source) as old, sqlite3.connect(target) as new:
        old.backup(new)
    old.close()
    new.close()


def new_session(person: Person) -> str:
    session = SessionStore()
    session[SESSION_KEY] = str(person.pk)
    session[BACKEND_SESSION_KEY] = BACKEND
    session[HASH_SESSION_KEY] = person.get_session_auth_hash()
    session.create()
    assert session.session_key
    return session.session_key


def wait_until(done: Callable[[], bool], *, seconds: float = 10) -> None:
    """Look again and again until it is so; fail when it never is."""
    deadline = time.monotonic() + seconds * slowness()
    while not done():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def session_cookie(key: str) -> str:
    return f"{settings.SESSION_COOKIE_NAME}={key}"
