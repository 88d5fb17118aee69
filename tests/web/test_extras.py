"""What the book page, the line and the API say when a home volume or a device cannot be had then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.urls import reverse
from lxml import html

from hosts.models import UsbDevice
from leasing.models import Lease, WaitlistEntry
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.test_homes import offer_homes

pytestmark = pytest.mark.django_db
DAY = datetime.now(UTC).date() + timedelta(days=20)


@pytest.fixture
def ada(scene: Scene, sign_in: SignIn) -> Client:
    offer_homes(scene)
    return sign_in(scene.ada)


@pytest.fixture
def tablet(scene: Scene) -> UsbDevice:
    return UsbDevice.objects.create(host=scene.host.row, usb_id="056a:0357", port="1-2", name="Wacom Pro")


def chosen(scene: Scene, hour: int, **more: Any) -> dict[str, Any]:
    return {
        "tenant": "studio", "flavor": scene.flavor.slug, "image": scene.image.slug, "when": "at",
        "starts_at": f"{DAY}T{hour:02d}:00", "length": "4h", **more,
    }  # fmt: skip


def proposals(page: str) -> dict[str, dict[str, list[str]]]:
    """By how they differ: what the address of the first one of each has filled in."""
    found: dict[str, dict[str, list[str]]] = {}
    how = ""
    listed = "//dl[contains(@class, 'proposals')]"
    tree: Any = html.fromstring(page)
    for part in tree.xpath(f"{listed}/dt | {listed}/dd/a"):
        if part.tag == "dt":
            how = part.text_content().strip() or how
        else:
            found.setdefault(how, parse_qs(urlsplit(part.get("href")).query))
    return found


def is_checked(page: str, name: str, value: object) -> bool:
    return bool(html.fromstring(page).xpath(f"//input[@name='{name}'][@value='{value}'][@checked]"))


def test_a_home_that_is_booked_is_told_before_the_button_with_ways_out(ada: Client, scene: Scene) -> None:
    ada.post(reverse("book"), chosen(scene, 9, with_home="1"))
    other = Lease.objects.latest("requested_at")
    assert other.with_home
    page = ada.get(reverse("book-price"), chosen(scene, 11, with_home="1")).content.decode()
    assert f"Your home volume is booked with {other.machine_name} then." in unescape(page)
    ways = proposals(page)
    assert "with_home" not in ways["without your home volume"]
    assert ways["without your home volume"]["starts_at"] == [f"{DAY}T11:00"]
    assert ways["later"]["with_home"] == ["1"]
    assert ways["later"]["starts_at"] == [f"{DAY}T13:00"]
    assert is_checked(ada.get(reverse("book"), ways["later"]).content.decode(), "with_home", 1)


def test_a_device_that_is_somebody_elses_is_told_in_the_same_way(
    ada: Client, scene: Scene, tablet: UsbDevice
) -> None:
    ada.post(reverse("book"), chosen(scene, 9, usb=[tablet.pk]))
    page = ada.get(reverse("book-price"), chosen(scene, 11, usb=[tablet.pk])).content.decode()
    assert "Wacom Pro is somebody else's then." in unescape(page)
    ways = proposals(page)
    assert ways["later"]["usb"] == [str(tablet.pk)]
    assert "usb" not in ways["without devices"]
    assert is_checked(ada.get(reverse("book"), ways["later"]).content.decode(), "usb", tablet.pk)


def test_the_timeline_shows_when_the_home_can_be_had(ada: Client, scene: Scene) -> None:
    def windows(**more: Any) -> str:
        asked = chosen(scene, 9, days=f"{DAY}", **more)
        page = ada.get(reverse("book-timeline"), asked).content.decode()
        return str(html.fromstring(page).get("data-windows"))

    assert windows() == windows(with_home="1")
    ada.post(reverse("book"), chosen(scene, 9, with_home="1"))
    other = Lease.objects.latest("requested_at")
    begin, end = (round(1000 * at.timestamp()) for at in (other.starts_at, other.ends_at))
    assert f"{begin}], [{end}" in windows(with_home="1")
    assert f"{begin}], [{end}" not in windows()


def test_the_line_is_joined_with_what_was_chosen_and_says_so(
    ada: Client, scene: Scene, tablet: UsbDevice
) -> None:
    ada.post(reverse("book"), chosen(scene, 9, with_home="1"))
    asked = chosen(scene, 10, with_home="1", usb=[tablet.pk], deadline=f"{DAY}T16:00")
    ada.post(reverse("join-waitlist"), asked)
    entry = WaitlistEntry.objects.latest("joined_at")
    assert entry.with_home
    page = ada.get(reverse("waiting", args=[entry.pk])).content.decode()
    assert "yours, attached" in page
    assert "Wacom Pro at hv1" in page


def test_the_api_finds_slots_with_them(ada: Client, scene: Scene, tablet: UsbDevice) -> None:
    ada.post(reverse("book"), chosen(scene, 9, with_home="1", usb=[tablet.pk]))
    other = Lease.objects.latest("requested_at")
    asked: dict[str, Any] = {
        "flavor": scene.flavor.slug,
        "tenant": "studio",
        "duration_seconds": 3600,
        "earliest": other.starts_at.isoformat(),
    }

    def slots(**more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = ada.get(reverse("api-slots"), asked | more).json()
        return answer

    def first(answer: dict[str, Any]) -> datetime:
        assert isinstance(answer["slots"], list)
        return datetime.fromisoformat(answer["slots"][0]["starts_at"])

    assert first(slots()) == other.starts_at
    assert first(slots(with_home=True)) == other.ends_at
    assert first(slots(usb=[tablet.pk])) > other.ends_at
    late = slots(with_home=True, deadline=(other.starts_at + timedelta(hours=2)).isoformat())
    assert (late["slots"], late["plain"] is None) == ([], False)
    assert "home-is-booked" in str(late["obstacles"])
    assert ada.get(reverse("api-slots"), asked | {"usb": [10**9]}).status_code == 400
    join = {
        "tenant": "studio", "flavor": scene.flavor.slug, "image": scene.image.slug, "with_home": True,
        "usb": [tablet.pk], "duration_seconds": 3600, "earliest": other.starts_at.isoformat(),
        "deadline": (other.starts_at + timedelta(hours=3)).isoformat(),
    }  # fmt: skip
    joined = ada.post(reverse("api-waitlist"), join, content_type="application/json")
    assert (joined.status_code, joined.json()["with_home"], joined.json()["snapshot"]) == (201, True, None)
    assert [device["name"] for device in joined.json()["usb"]] == ["Wacom Pro"]
