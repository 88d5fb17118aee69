"""Files of a home volume in the browser: looked into, taken out, and nothing of it for anybody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Thread
from uuid import UUID

import httpx
import msgspec
import pytest
from django.urls import reverse
from nacl.public import PrivateKey
from playwright.sync_api import expect
from websockets.exceptions import ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from hosts.models import Host
from hosts.protocol.homes import HomeRead, ReadHome
from hosts.protocol.signing import public_hex, unseal
from leasing import homes
from leasing.fsck import run_checks
from leasing.models import HomeReading, HomeVolume, OutboxMessage
from leasing.reading import read_home
from leasing.states.home import HomeState
from tests.domain.test_homes import book
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.keyboard import Keyboard
from tests.web.scenes import Scene
from tests.web.site import Site, session_cookie, wait_until
from tests.web.test_homes import bring_up, end, offer_homes, until_free

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]
BIG = bytes(range(256)) * 4096
LISTING = {
    "entries": [
        {"name": "renders", "kind": "folder", "size": 4096, "changed_at": 1_790_000_000},
        {"name": "last & final.exr", "kind": "file", "size": len(BIG), "changed_at": 1_790_000_000},
        {"name": "<script>", "kind": "other", "size": 9, "changed_at": 10**17},
    ],
    "more": False,
    "unnamed": 1,
}


class Reader:
    """A host that looks where it is told, as often as it is told."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.key = PrivateKey.generate()
        site.do(self._prepare)
        until_free(site)

    def _prepare(self, scene: Scene) -> None:
        offer_homes(scene)
        scene.now = datetime.now(UTC)
        book(scene)
        bring_up(scene)
        end(scene)
        Host.objects.filter(pk=scene.host.row.pk).update(reads_homes=True, sealing_key=public_hex(self.key))

    def order(self) -> ReadHome | None:
        def latest(_scene: Scene) -> ReadHome | None:
            open_ones = HomeReading.objects.filter(ended_at=None, token_used_at=None)
            orders = OutboxMessage.objects.filter(kind="read-home", answered_at=None).order_by("-created_at")
            goals = [msgspec.json.decode(each.goal, type=ReadHome) for each in orders]
            known = set(open_ones.values_list("pk", flat=True))
            return next((goal for goal in goals if goal.reading_id in known), None)

        return self.site.do(latest)

    def dial(self, *, token: str | None = None) -> tuple[ReadHome, ClientConnection]:
        """As soon as it is told to."""
        wait_until(lambda: self.order() is not None)
        goal = self.order()
        assert goal is not None
        shown = token or unseal(goal.sealed_token, key=self.key).decode()
        url = f"{self.site.websocket_url}/ws/host-reading/{goal.reading_id}/"
        headers = {"Authorization": f"Bearer {shown}"}
        return goal, connect(url, additional_headers=headers, compression=None, close_timeout=1)

    def tell(self, reading_id: UUID, reason: str = "") -> None:
        def say(scene: Scene) -> None:
            scene.now = datetime.now(UTC)
            command = OutboxMessage.objects.filter(kind="read-home").latest("created_at")
            scene.host.say(HomeRead(reading_id=reading_id, reason=reason), at=scene.now, command=command)

        self.site.do(say)

    def give(self, *parts: bytes, size: int | None = None, clean: bool = True) -> ReadHome:
        goal, gateway = self.dial()
        with gateway:
            gateway.send(json.dumps({"size": size, "clean": clean}))
            for part in parts:
                gateway.send(part)
            gateway.send("end")
            with pytest.raises(ConnectionClosedOK):
                gateway.recv(timeout=20)
        self.tell(goal.reading_id)
        return goal


@pytest.fixture
def reader(site: Site) -> Iterator[Reader]:
    yield Reader(site)
    site.do(lambda _scene: _is_sound())


def _is_sound() -> None:
    assert run_checks(datetime.now(UTC)) == []


def test_a_folder_is_looked_into_and_a_file_is_downloaded(visits: Visits, site: Site, reader: Reader) -> None:
    page = visits.page(site.scene.ada)
    page.goto(reverse("storage"))
    page.get_by_role("button", name="Files").click()
    expect(page.get_by_text("Looking into it")).to_be_visible()
    reader.give(json.dumps(LISTING).encode(), clean=False)
    expect(page.get_by_role("button", name="renders", exact=True)).to_be_visible()
    expect(page.get_by_text("The last workstation was cut off")).to_be_visible()
    expect(page.get_by_text("One has a name that cannot be shown")).to_be_visible()
    with page.expect_download() as download:
        giving = Thread(target=reader.give, args=(BIG[:100], BIG[100:]), kwargs={"size": len(BIG)})
        giving.start()
        page.get_by_role("button", name="Download last & final.exr", exact=True).click()
    assert download.value.suggested_filename == "last & final.exr"
    assert download.value.path().read_bytes() == BIG
    giving.join()
    page.get_by_role("button", name="renders", exact=True).click()
    goal = reader.give(json.dumps({"entries": [], "more": False, "unnamed": 0}).encode())
    assert goal.path == "/renders"
    expect(page.get_by_text("This folder is empty.")).to_be_visible()
    assert visits.complaints == []


def test_what_comes_while_a_button_is_pressed_takes_no_click_away(
    visits: Visits, site: Site, reader: Reader
) -> None:
    page = visits.page(site.scene.ada)
    page.goto(reverse("storage"))
    page.get_by_role("button", name="Files").click()
    page.get_by_role("button", name="Home", exact=True).hover()
    page.mouse.down()
    for _turn in range(2):
        with page.expect_response("**/live/"):
            pass
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.mouse.up()
    expect(page.get_by_text("It is being read just now")).to_be_visible()
    reader.give(json.dumps(LISTING).encode())


def test_by_keys_alone_a_file_is_fetched_and_the_volume_removed(
    visits: Visits, site: Site, reader: Reader
) -> None:
    page = visits.page(site.scene.ada)
    keyboard = Keyboard(page)
    page.goto(reverse("storage"))
    keyboard.follow(page.get_by_role("button", name="Files"))
    reader.give(json.dumps(LISTING).encode())
    expect(page.get_by_role("button", name="renders", exact=True)).to_be_visible()
    with page.expect_download() as download:
        giving = Thread(target=reader.give, args=(BIG,), kwargs={"size": len(BIG)})
        giving.start()
        keyboard.use(page.get_by_role("button", name="Download last & final.exr", exact=True))
    assert download.value.path().read_bytes() == BIG
    giving.join()
    wait_until(lambda: site.do(lambda _scene: HomeVolume.objects.get().state) == HomeState.DETACHED)
    keyboard.follow(page.get_by_role("link", name="Storage"), back=True)
    keyboard.follow(page.get_by_role("link", name="Remove"))
    keyboard.follow(page.get_by_role("button", name="Remove it"))
    expect(page.locator("[data-volume]")).to_contain_text("being removed")
    assert visits.complaints == []


def test_what_breaks_off_is_no_file_and_what_cannot_be_read_says_why(
    visits: Visits, site: Site, reader: Reader
) -> None:
    page = visits.page(site.scene.ada)
    page.goto(reverse("storage"))
    page.get_by_role("button", name="Files").click()
    goal, gateway = reader.dial()
    with gateway:
        gateway.close(1011)
    reader.tell(goal.reading_id, "It is no folder.")
    expect(page.get_by_text("It could not be read: It is no folder.")).to_be_visible()
    cookie = site.session_of(site.scene.ada)
    reading = site.do(lambda scene: asked_by(scene, cookie))
    answers: list[httpx.Response | Exception] = []

    def take() -> None:
        try:
            answers.append(httpx.get(address(site, reading), headers={"Cookie": session_cookie(cookie)}))
        except httpx.HTTPError as error:
            answers.append(error)

    taking = Thread(target=take)
    taking.start()
    goal, gateway = reader.dial()
    with gateway:
        gateway.send(json.dumps({"size": None, "clean": True}))
        gateway.send(BIG[:100])
        gateway.close(1011)
    taking.join()
    assert isinstance(answers[0], httpx.RemoteProtocolError)
    reader.tell(goal.reading_id, "Not all of it could be read.")
    late = site.do(lambda scene: asked_by(scene, cookie))
    reader.tell(late.pk, "It is no file.")
    answer = httpx.get(address(site, late), headers={"Cookie": session_cookie(cookie)})
    assert (answer.status_code, answer.headers["location"]) == (303, reverse("home-reading", args=[late.pk]))


def asked_by(scene: Scene, cookie: str) -> HomeReading:
    return read_home(
        actor=scene.actor(scene.ada), volume_id=HomeVolume.objects.get().pk, wanted="file", path="/a.exr",
        session_key=cookie, now=datetime.now(UTC),
    )  # fmt: skip


def address(site: Site, reading: HomeReading) -> str:
    return f"{site.url}/ws/reading/{reading.pk}/"


def test_nobody_else_takes_it_and_no_host_without_the_token_gives_it(site: Site, reader: Reader) -> None:
    cookie, other = site.session_of(site.scene.ada), site.session_of(site.scene.ada)
    reading = site.do(lambda scene: asked_by(scene, cookie))
    for headers in ({}, {"Cookie": session_cookie(other)}, {"Authorization": "Token nothing"}):
        assert httpx.get(address(site, reading), headers=headers).status_code == 404
    assert httpx.get(f"{site.url}/ws/reading/nothing/").status_code == 404
    with pytest.raises(InvalidStatus):
        reader.dial(token="made-up")
    answers: list[httpx.Response] = []
    mine = {"Cookie": session_cookie(cookie)}
    taking = Thread(target=lambda: answers.append(httpx.get(address(site, reading), headers=mine)))
    taking.start()
    reader.give(b"all of it", size=9)
    taking.join()
    (answer,) = answers
    assert (answer.status_code, answer.content) == (200, b"all of it")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''a.exr"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(address(site, reading), headers=mine).status_code == 404


def test_a_lease_that_is_due_ends_a_download(site: Site, reader: Reader) -> None:
    cookie = site.session_of(site.scene.ada)
    reading = site.do(lambda scene: asked_by(scene, cookie))
    taking = Thread(
        target=lambda: httpx.get(address(site, reading), headers={"Cookie": session_cookie(cookie)})
    )

    def take() -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(address(site, reading), headers={"Cookie": session_cookie(cookie)}, timeout=30)

    taking = Thread(target=take)
    taking.start()
    goal, gateway = reader.dial()
    with gateway:
        gateway.send(json.dumps({"size": None, "clean": True}))
        gateway.send(BIG)
        site.do(want_it_back)
        taking.join(20)
        assert not taking.is_alive()
    reader.tell(goal.reading_id, "Nobody waits for it any more.")
    assert site.do(lambda _scene: HomeVolume.objects.get().state) == HomeState.DETACHED


def want_it_back(scene: Scene) -> None:
    scene.now = datetime.now(UTC)
    book(scene)
    scene.tick()


def test_over_the_api(scene: Scene, sign_in: SignIn) -> None:
    offer_homes(scene)
    scene.now = datetime.now(UTC)
    book(scene)
    bring_up(scene)
    end(scene)
    Host.objects.update(reads_homes=True)
    volume = HomeVolume.objects.get()
    assert homes.volumes_of(scene.ada).count() == 1
    ada, bob = sign_in(scene.ada), sign_in(scene.bob)
    asked = {"wanted": "list", "path": "/renders"}
    url = reverse("api-home-readings", args=[volume.pk])
    assert bob.post(url, asked, content_type="application/json").status_code == 404
    made = ada.post(url, asked, content_type="application/json")
    assert made.status_code == 202, made.content
    shown = ada.get(reverse("api-home-reading", args=[made.json()["id"]])).json()
    assert (shown["wanted"], shown["path"], shown["ended_at"], shown["listing"]) == (
        "list",
        "/renders",
        None,
        None,
    )
    assert shown["download"] is None
    assert bob.get(reverse("api-home-reading", args=[shown["id"]])).status_code == 404
    again = ada.post(url, asked, content_type="application/json")
    assert again.status_code == 409
