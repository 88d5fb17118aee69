"""Moving a booking to another time: the page says what it costs and does, then one button does it."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import expect

from leasing.errors import NothingFree
from leasing.models import Lease
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.keyboard import Keyboard
from tests.web.scenes import Scene
from tests.web.site import Site

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]
HOUR = timedelta(hours=1)


def local(at: datetime) -> str:
    return timezone.localtime(at, timezone=timezone.get_fixed_timezone(60)).strftime("%Y-%m-%dT%H:%M")


def test_by_keys_alone_it_is_moved_an_hour_and_its_page_says_so(visits: Visits, site: Site) -> None:
    lease, page = site.scene.scheduled, visits.page(site.scene.ada)
    page.goto(reverse("workstation", args=[lease.pk]))
    keyboard = Keyboard(page)
    keyboard.follow(page.get_by_role("link", name="Move it to another time"))
    expect(page.get_by_text("Choose another time, and its price appears here.")).to_be_visible()
    until = page.get_by_label("Until")
    later = until.evaluate("field => new Date(field.valueAsNumber + 3600000).toISOString().slice(0, 16)")
    until.fill(later)
    expect(page.locator("#price")).to_contain_text("€34.20")
    expect(page.locator("#price")).to_contain_text("free then")
    keyboard.follow(page.get_by_role("button", name="Move it"))
    expect(page.get_by_role("status").filter(has_text="Moved.")).to_be_visible()
    moved = site.do(lambda _scene: Lease.objects.get(pk=lease.pk))
    assert (moved.ends_at - moved.starts_at, str(moved.quoted_total)) == (9 * HOUR, "34.20")
    assert visits.complaints == []


def test_what_cannot_be_had_is_told_with_what_could(scene: Scene, sign_in: SignIn) -> None:
    ada, lease = sign_in(scene.ada), scene.scheduled
    taken = scene.book(scene.bob, scene.research, hours=2, start=timedelta(days=3))
    with suppress(NothingFree):
        while True:
            scene.book(scene.bob, scene.research, hours=2, start=timedelta(days=3))
    url = reverse("workstation-move", args=[lease.pk])
    window = {"starts_at": local(taken.starts_at), "ends_at": local(taken.ends_at)}
    page = ada.get(url, window).content.decode()
    assert "not free then" in page
    assert f"{url}?starts_at=" in page
    refused = ada.post(url, window | {"back": url}, follow=True).content.decode()
    assert "is free from then until then" in refused
    lease.refresh_from_db()
    assert lease.starts_at == scene.scheduled.starts_at
    for wrong, words in (
        ({"starts_at": ""}, "Say from when."),
        ({"ends_at": "soon"}, "This is not a date and time"),
        ({"ends_at": window["starts_at"]}, "The end must be after the start."),
    ):
        assert words in ada.get(url, window | wrong).content.decode()
