"""Keeping it longer with one click: from the mail's link, from the page, from home, and over the API."""

from __future__ import annotations

import html
import json
import re
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.urls import reverse

from leasing import addresses
from leasing.actors import SYSTEM
from leasing.models import Lease
from leasing.quotas import set_quota
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

HOUR = timedelta(hours=1)


@pytest.fixture
def ada(scene: Scene, sign_in: SignIn) -> Client:
    return sign_in(scene.ada)


def offers(page: str) -> dict[str, tuple[str, bool]]:
    """The buttons: their value, and whether they can be pressed."""
    found = re.findall(r'name="ends_at" value="([^"]+)" data-offer="([^"]+)"( disabled)?', page)
    return {name: (html.unescape(value), not disabled) for value, name, disabled in found}


def test_notices_point_to_pages_that_exist(scene: Scene) -> None:
    lease = scene.active
    for address, page in (
        (addresses.of_lease(lease), reverse("workstation", args=[lease.pk])),
        (addresses.of_more_time(lease), reverse("workstation-extend", args=[lease.pk])),
        (addresses.of_approvals(), reverse("approvals")),
        (addresses.of_quota(), reverse("quota")),
    ):
        assert address == f"http://127.0.0.1:8000{page}"


def test_the_link_changes_nothing_and_one_click_does(ada: Client, scene: Scene) -> None:
    lease = scene.active
    url = reverse("workstation-extend", args=[lease.pk])
    page = ada.get(url).content.decode()
    assert "€3.80" in page
    assert "If it does not within five minutes, the end stays as it is" in page
    assert not lease.extensions.exists()
    value, pressable = offers(page)["hour"]
    assert pressable
    assert datetime.fromisoformat(value) == lease.ends_at + HOUR
    assert ada.post(url).status_code == 405
    answer = ada.post(reverse("workstation-end-at", args=[lease.pk]), {"ends_at": value}, follow=True)
    assert "Asked the host. The new end counts as soon as it has confirmed it." in answer.content.decode()
    assert lease.extensions.get().new_ends_at == lease.ends_at + HOUR
    assert "waits for the host" in ada.get(url).content.decode()
    assert offers(ada.get(url).content.decode()) == {}


def test_its_page_offers_the_same(ada: Client, scene: Scene) -> None:
    url = reverse("workstation", args=[scene.active.pk])
    check_offers(ada, scene, ada.get(url).content.decode(), url)


def test_home_loads_the_same_into_its_card(ada: Client, scene: Scene) -> None:
    url = reverse("workstation-extend", args=[scene.active.pk])
    page = ada.get(reverse("home")).content.decode()
    assert f'hx-get="{url}" hx-trigger="load"' in page
    fragment = ada.get(url, headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in fragment
    assert f'name="back" value="{reverse("home")}"' in fragment
    check_offers(ada, scene, fragment, reverse("home"))


def check_offers(ada: Client, scene: Scene, page: str, back: str) -> None:
    assert {"hour", "four-hours", "longest"} <= offers(page).keys()
    value, _pressable = offers(page)["four-hours"]
    given = {"ends_at": value, "back": back}
    answer = ada.post(reverse("workstation-end-at", args=[scene.active.pk]), given)
    assert answer.headers["Location"] == back
    assert scene.active.extensions.get().new_ends_at == datetime.fromisoformat(value)


def test_what_is_outside_the_limits_cannot_be_pressed_and_says_why(ada: Client, scene: Scene) -> None:
    set_quota(actor=SYSTEM, tenant=scene.studio, kind="longest", value=Decimal(7), now=scene.now)
    page = ada.get(reverse("workstation-extend", args=[scene.active.pk])).content.decode()
    pressable = {name: pressable for name, (_value, pressable) in offers(page).items()}
    assert pressable.items() >= {"hour": True, "four-hours": False, "longest": True}.items()
    assert "Longer than the 7 hours that need no approval." in page
    assert "outside your limits" in page
    forced = offers(page)["four-hours"][0]
    back = reverse("workstation-extend", args=[scene.active.pk])
    url = reverse("workstation-end-at", args=[scene.active.pk])
    refused = ada.post(url, {"ends_at": forced, "back": back}, follow=True).content.decode()
    assert "Ask for a larger quota, or choose less." in refused
    assert not scene.active.extensions.exists()


def test_the_link_of_an_old_mail_says_that_it_is_over(ada: Client, scene: Scene) -> None:
    answer = ada.get(reverse("workstation-extend", args=[scene.ended.pk]))
    assert answer.status_code == 409
    assert "cannot be changed any more" in answer.content.decode()


def test_over_the_api(ada: Client, scene: Scene) -> None:
    path = f"/api/v1/leases/{scene.active.pk}/end-at/"
    told = ada.get(path).json()
    by_name = {offer["name"]: offer for offer in told["offers"]}
    assert (by_name["hour"]["total"], by_name["hour"]["outside"]) == ("3.80", "")
    assert (told["why_not_longer"], told["pending_until"]) == ("", None)
    body = json.dumps({"ends_at": by_name["hour"]["ends_at"]})
    asked = ada.post(path, body, content_type="application/json").json()
    assert asked["pending_ends_at"] == by_name["hour"]["ends_at"]
    told = ada.get(path).json()
    assert (told["offers"], told["pending_until"]) == ([], by_name["hour"]["ends_at"])
    assert Lease.objects.get(pk=scene.active.pk).ends_at == scene.active.ends_at
