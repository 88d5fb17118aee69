"""USB devices chosen on the book page, changed on the workstation's, and the same over the API."""

from __future__ import annotations

import msgspec
import pytest
from django.test import Client
from django.urls import reverse

from hosts.models import UsbDevice
from hosts.protocol import messages as m
from leasing.models import Lease
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.test_booking_page import GOOD, local
from tests.world import inventory

TABLET = m.UsbDevice(usb_id="056a:0357", port="1-2", name="Wacom <Intuos> Pro")
AHEAD = GOOD | {"when": "at", "starts_at": local(days=40)}


@pytest.fixture
def ada(scene: Scene, sign_in: SignIn) -> Client:
    return sign_in(scene.ada)


@pytest.fixture
def tablet(scene: Scene) -> UsbDevice:
    """Plugged into the scene's host."""
    seen = inventory(*(gpu.address for gpu in scene.gpus), machines=scene.host.machines())
    scene.host.say(msgspec.structs.replace(seen, usb=(TABLET,)), at=scene.now)
    return UsbDevice.objects.get()


def test_the_book_page_offers_what_is_plugged_in_and_gives_it_to_one(
    ada: Client, scene: Scene, sign_in: SignIn, tablet: UsbDevice
) -> None:
    page = ada.get("/book/").content.decode()
    assert "Wacom &lt;Intuos&gt; Pro at hv1" in page
    chosen = AHEAD | {"usb": [str(tablet.pk)]}
    ada.post("/book/", chosen)
    lease = Lease.objects.get(bound_to=tablet.host)
    assert [one.device for one in lease.devices.all()] == [tablet]
    assert "Wacom &lt;Intuos&gt; Pro at hv1" in ada.get(f"/workstations/{lease.pk}/").content.decode()
    refused = ada.post("/book/", chosen)
    assert refused.status_code == 400
    assert "is somebody else&#x27;s then" in refused.content.decode()
    assert "checked> Wacom" in refused.content.decode(), "the choice stays"


def test_without_devices_nothing_is_asked(ada: Client, scene: Scene) -> None:
    assert 'name="usb"' not in ada.get("/book/").content.decode()


def test_what_is_repeated_has_none(ada: Client, scene: Scene, tablet: UsbDevice) -> None:
    repeated = AHEAD | {"weekdays": ["1"], "last_on": local(days=50)[:10], "usb": [str(tablet.pk)]}
    answer = ada.post("/book/", repeated)
    assert "choose devices for each date" in answer.content.decode()


def test_its_page_changes_them_until_it_begins(ada: Client, scene: Scene, tablet: UsbDevice) -> None:
    ada.post("/book/", AHEAD)
    lease = Lease.objects.order_by("-requested_at").first()
    assert lease is not None
    address = reverse("workstation-devices", args=[lease.pk])
    ada.post(address, {"usb": [str(tablet.pk)]})
    assert lease.devices.count() == 1
    ada.post(address, {"usb": ["x", "9" * 40]})
    assert lease.devices.count() == 0
    ada.post(reverse("workstation-devices", args=[scene.active.pk]), {"usb": [str(tablet.pk)]})
    assert scene.active.devices.count() == 0
    assert "What is plugged in" not in ada.get(f"/workstations/{scene.active.pk}/").content.decode()


def test_the_api_does_the_same(ada: Client, scene: Scene, sign_in: SignIn, tablet: UsbDevice) -> None:
    (told,) = ada.get("/api/v1/usb-devices/", {"flavor": "studio"}).json()
    assert told == {
        "id": tablet.pk, "host": "hv1", "port": "1-2", "usb_id": "056a:0357", "name": TABLET.name,
    }  # fmt: skip
    asked = {"flavor": "studio", "image": "tenant", "duration_seconds": 3600, "usb": [told["id"]]}
    asked["starts_at"] = f"{local(days=40)}:00+01:00"
    lease = ada.post("/api/v1/leases/", asked, content_type="application/json").json()
    assert lease["usb"] == [told]
    again = ada.post("/api/v1/leases/", asked, content_type="application/json")
    assert again.status_code == 409
    assert "is somebody else's then" in str(again.json())
    address = f"/api/v1/leases/{lease['id']}/devices/"
    assert ada.post(address, {"usb": []}, content_type="application/json").json()["usb"] == []
    for wrong in ([0], ["x"], [1] * 9, [10**14]):
        answer = ada.post(address, {"usb": wrong}, content_type="application/json")
        assert answer.status_code == 400
    others = sign_in(scene.bob).post(address, {"usb": []}, content_type="application/json")
    assert others.status_code == 404
