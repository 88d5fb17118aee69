"""Fifty open pages on one process: one reader for all, each told of what is its own, nothing left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import pytest
from django.contrib.sessions.models import Session

from leasing import policy
from leasing.actors import SYSTEM
from leasing.audit.log import record
from leasing.models import Lease, Person
from portal.live import POLL_SECONDS, THREAD, broadcaster
from tests.web.browsing import run_apart
from tests.web.scenes import Scene
from tests.web.site import Site, session_cookie
from tools.pace import slowness

pytestmark = pytest.mark.django_db
PATIENCE = 20.0 * slowness()


class Page:
    """An open stream, and what it was told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.told: list[str] = []
        self._writer = writer
        self._listening = asyncio.create_task(self._listen(reader))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            if line.startswith(b"data: ") and line.strip() != b'data: ""':
                self.told.append(line.decode().strip().removeprefix("data: ").strip('"'))

    @property
    def is_over(self) -> bool:
        return self._listening.done()

    def close(self) -> None:
        self._listening.cancel()
        self._writer.close()


async def open_page(site: Site, cookie: str, query: str = "") -> Page:
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = (f"GET /events/{query} HTTP/1.1", f"Host: {host}", "Connection: close")
    writer.write("\r\n".join((*lines, f"Cookie: {session_cookie(cookie)}", "", "")).encode())
    assert b" 200 " in await reader.readline()
    while b"hello" not in await reader.readline():
        pass
    return Page(reader, writer)


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be so"
        await asyncio.sleep(0.02)


def readers() -> int:
    return sum(thread.name.startswith(THREAD) for thread in threading.enumerate())


class Pages:
    """Home pages of ada and bob, ada's page of a lease, and the operator's of the fleet."""

    def __init__(self, site: Site) -> None:
        self.site, scene = site, site.scene
        people = {"ada": scene.ada, "bob": scene.bob, "operator": scene.operator}
        self.cookies = {name: site.session_of(who) for name, who in people.items()}
        self.of: dict[str, list[Page]] = {}

    async def open(self) -> None:
        lease = f"?lease={self.site.scene.active.pk}"
        wanted = {"home": ("ada", "", 20), "lease": ("ada", lease, 10), "bob": ("bob", "", 15)}
        for name, (who, query, count) in (wanted | {"fleet": ("operator", "?fleet=1", 5)}).items():
            opening = (open_page(self.site, self.cookies[who], query) for _ in range(count))
            self.of[name] = list(await asyncio.gather(*opening))

    def all_but(self, *names: str) -> Iterable[Page]:
        return (page for name, pages in self.of.items() if name not in names for page in pages)

    async def act(self, do: Callable[[Scene], object]) -> None:
        await asyncio.to_thread(self.site.do, do)

    async def touch(self, lease: Lease, *names: str) -> None:
        """Something happens to a lease, until these pages have been told: a first look sees no change."""
        for page in self.all_but():
            page.told.clear()
        subject = str(lease.pk)
        deadline = time.monotonic() + PATIENCE

        def are_told() -> bool:
            return all(subject in page.told for name in names for page in self.of[name])

        # Again only if it came before the reader's first look: what is told twice would be heard later, too.
        while not are_told():
            assert time.monotonic() < deadline, "not all were told"
            await self.act(
                lambda scene: record(action="test", actor=SYSTEM, subject=f"lease:{subject}", now=scene.now)
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(until(are_told), 4 * POLL_SECONDS)


def test_each_page_hears_of_its_own_and_all_are_read_for_by_one(site: Site) -> None:
    async def story() -> None:
        pages, scene = Pages(site), site.scene
        await pages.open()
        await pages.touch(scene.active, "home", "lease")
        assert threading.active_count() < 20, "no page keeps a thread"
        assert not any(page.told for page in pages.all_but("home", "lease"))
        await pages.touch(scene.theirs, "bob")
        assert not any(page.told for page in pages.all_but("bob"))
        await pages.touch(scene.preparing, "home")
        assert not any(page.told for page in pages.all_but("home"))
        await pages.act(lambda scene: record(action="test", actor=SYSTEM, subject="host:hv1", now=scene.now))
        await until(lambda: all("fleet" in page.told for page in pages.of["fleet"]))
        assert not any("fleet" in page.told for page in pages.all_but("fleet"))
        assert (len(broadcaster.subscribers), readers()) == (50, 1)
        close(pages.all_but("fleet"))
        await until(lambda: len(broadcaster.subscribers) == 5)
        close(pages.of["fleet"])
        await until(lambda: not broadcaster.subscribers and not readers())

    run_apart(story())


def test_streams_end_with_their_session_and_with_the_rights_of_their_person_and_no_others(site: Site) -> None:
    async def story() -> None:
        pages, scene = Pages(site), site.scene
        await pages.open()
        await pages.touch(scene.active, "home", "lease")
        await pages.act(lambda _: Session.objects.filter(session_key=pages.cookies["bob"]).delete())
        await until(lambda: all(page.is_over for page in pages.of["bob"]))
        assert not any(page.is_over for page in pages.all_but("bob"))
        await pages.act(lambda scene: change_role(scene, scene.ada))
        await until(lambda: all(page.is_over for page in pages.all_but("bob", "fleet")))
        assert not any(page.is_over for page in pages.of["fleet"])
        await pages.act(lambda scene: Person.objects.filter(pk=scene.operator.pk).update(is_active=False))
        await until(lambda: all(page.is_over for page in pages.of["fleet"]))
        await until(lambda: not broadcaster.subscribers and not readers())
        close(pages.all_but())

    run_apart(story())


def close(pages: Iterable[Page]) -> None:
    for page in pages:
        page.close()


def change_role(scene: Scene, who: Person) -> None:
    policy.revoke_role(actor=SYSTEM, person=who, tenant=scene.studio, role="member", now=scene.now)
