"""Live updates: who is told of what, and when a stream ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from django.contrib.sessions.models import Session

from leasing import policy
from leasing.actors import SYSTEM
from leasing.ending import end_lease
from tests.web.scenes import Scene
from tests.web.site import Site, session_cookie

pytestmark = pytest.mark.django_db

PATIENCE = 10.0


class Stream:
    """An open stream, read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.lines = response.iter_lines()

    def next(self, name: str) -> str:
        """The data of the next event of this name; what comes before is passed over."""
        deadline = time.monotonic() + PATIENCE
        current = ""
        for line in self.lines:
            assert time.monotonic() < deadline, f"no {name} came"
            if line.startswith("event: "):
                current = line.removeprefix("event: ")
            elif line.startswith("data: ") and current == name:
                return line.removeprefix("data: ").strip('"')
        raise AssertionError("the stream ended")

    def ends(self) -> bool:
        return all(not line.startswith("event: changed") for line in self.lines)


@contextmanager
def listening(site: Site, cookie: str, query: str = "") -> Iterator[Stream]:
    headers = {"Cookie": session_cookie(cookie)}
    with httpx.stream("GET", f"{site.url}/events/{query}", headers=headers, timeout=PATIENCE) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        stream = Stream(response)
        stream.next("hello")
        # A poll must have seen how things were, or nothing can have changed since.
        time.sleep(1.5)
        yield stream


def end(scene: Scene) -> None:
    end_lease(actor=scene.actor(scene.ada), lease_id=scene.active.pk, now=scene.until)


def test_a_change_is_told_to_its_owner_and_nobody_elses(site: Site) -> None:
    ada, bob = site.session_of(site.scene.ada), site.session_of(site.scene.bob)
    with listening(site, ada) as hers, listening(site, bob) as his:
        site.do(end)
        assert hers.next("changed") == str(site.scene.active.pk)
        mine = site.do(_book_for_bob)
        assert his.next("changed") == mine


def test_a_page_of_one_lease_is_told_of_that_one(site: Site) -> None:
    with listening(site, site.session_of(site.scene.ada), f"?lease={site.scene.preparing.pk}") as stream:
        site.do(end)
        site.do(lambda scene: scene.steps(scene.preparing, ("identify", "bind", "reserve", "define")))
        assert stream.next("changed") == str(site.scene.preparing.pk)


def test_operators_are_told_of_the_fleet(site: Site) -> None:
    with listening(site, site.session_of(site.scene.operator), "?fleet=1") as stream:
        site.do(lambda scene: scene.host.row.gpus.filter(state="clean").update(state="maintenance"))
        assert stream.next("changed") == "fleet"


def test_signing_out_ends_the_stream(site: Site) -> None:
    cookie = site.session_of(site.scene.ada)
    with listening(site, cookie) as stream:
        site.do(lambda _scene: Session.objects.filter(session_key=cookie).delete())
        assert stream.ends()


def test_a_lost_role_ends_the_stream_and_bars_the_next(site: Site) -> None:
    cookie = site.session_of(site.scene.ada)
    query = f"?lease={site.scene.active.pk}"
    with listening(site, cookie, query) as stream:
        site.do(
            lambda scene: policy.revoke_role(
                actor=SYSTEM, person=scene.ada, tenant=scene.studio, role="member", now=scene.now
            )
        )
        assert stream.ends()
    again = httpx.get(f"{site.url}/events/{query}", headers={"Cookie": session_cookie(cookie)})
    assert again.status_code == 404


def _book_for_bob(scene: Scene) -> str:
    scene.now = scene.until
    return str(scene.book(scene.bob, scene.research, hours=1).pk)
