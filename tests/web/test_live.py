"""Live updates: who is told of what, and when a stream ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import httpx
import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.test.utils import CaptureQueriesContext

from leasing import policy
from leasing.actors import SYSTEM
from leasing.ending import end_lease
from leasing.fleet import withdraw_gpu
from leasing.models import AuditEntry
from portal import changes
from tests.web.scenes import Scene
from tests.web.site import Site, session_cookie
from tools.pace import slowness

pytestmark = pytest.mark.django_db

PATIENCE = 10.0 * slowness()


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
        site.do(_withdraw_a_gpu)
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


def _withdraw_a_gpu(scene: Scene) -> None:
    gpu = scene.host.row.gpus.filter(state="clean").first()
    assert gpu is not None
    withdraw_gpu(actor=SYSTEM, gpu_id=gpu.pk, reason="a new fan", now=scene.until)


def test_an_entry_that_comes_late_is_seen_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(0, 10_000, 5))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(moments)))
    entries = changes.NewEntries()

    def enter(number: int) -> None:
        AuditEntry.objects.create(
            pk=10**6 + number,
            recorded_at=scene.now,
            action="test",
            actor="a",
            subject=f"lease:{number}",
            text="{}",
        )

    enter(2)
    assert entries.read()[0] == ["lease:2"]
    enter(1)
    assert entries.read() == (["lease:1"], [10**6 + 1])
    for _look in range(5):
        assert entries.read() == ([], [])
    enter(3)
    assert entries.read()[0] == ["lease:3"]


def test_a_look_costs_the_same_whatever_is_booked(scene: Scene) -> None:
    watch = changes.Watch()

    def statements() -> int:
        watch.look(frozenset(), frozenset())
        with CaptureQueriesContext(connection) as captured:
            assert watch.look(frozenset(), frozenset()).owners == {}
        return len(captured)

    before = statements()
    for day in range(2, 12):
        scene.book(scene.ada, hours=1, start=timedelta(days=day))
    assert statements() == before <= 20
