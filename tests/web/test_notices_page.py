"""What people choose to hear of: the page, the webhook's secret shown once, and notices of the browser."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from leasing.models import AuditEntry, NoticeSettings
from leasing.notices import notify
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site

# The browser's own, as far as a test can see it.
RECORDER = """
    window.shown = [];
    window.Notification = class {
        static permission = "granted";
        static async requestPermission() { return "granted"; }
        constructor(subject, options) { window.shown.push([subject, options.body]); }
    };
"""


def test_ways_are_chosen_and_kept(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    page = client.get(reverse("notices")).content.decode()
    assert page.count(" checked") == 7
    client.post(reverse("choose-notices"), {"email": ["ending"], "browser": ["ready", "failed"]})
    page = client.get(reverse("notices")).content.decode()
    on = re.findall(r'name="(\w+)" value="(\w+)"[^>]* checked', page)
    assert on == [("email", "ending"), ("browser", "ready"), ("browser", "failed")]
    refused = client.post(reverse("choose-notices"), {"email": "all"}, follow=True).content.decode()
    assert "There are no such notices." in refused


def test_the_secret_is_shown_once_and_a_private_address_is_told_apart(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    made = client.post(reverse("set-webhook"), {"url": "https://127.0.0.1/x"}).content.decode()
    found = re.search(r'id="new-secret"[^>]*>([\w-]{43})<', made)
    assert found
    assert found[1] not in client.get(reverse("notices")).content.decode()
    tried = client.post(reverse("try-webhook"), follow=True).content.decode()
    assert "127.0.0.1 is not a public address" in tried
    wrong = client.post(reverse("set-webhook"), {"url": "http://example.org/"})
    assert wrong.status_code == 400
    assert "has to begin with https://" in wrong.content.decode()
    assert NoticeSettings.objects.get().url == "https://127.0.0.1/x"
    assert "127.0.0.1/x" not in "".join(AuditEntry.objects.values_list("text", flat=True))


def test_a_test_is_sent_so_often_an_hour_and_no_more(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    client.post(reverse("set-webhook"), {"url": "https://127.0.0.1/x"})
    for _each in range(20):
        client.post(reverse("try-webhook"))
    said = client.post(reverse("try-webhook"), {"back": reverse("notices")}, follow=True).content.decode()
    assert "often enough" in said


def test_news_are_ones_own(scene: Scene, sign_in: SignIn) -> None:
    for who in (scene.ada, scene.bob):
        sign_in(who).post(reverse("choose-notices"), {"browser": ["ready"]})
    tell(scene)
    assert news(sign_in, scene, "ada")[-1]["subject"] == "It runs"
    assert "It runs" not in [one["subject"] for one in news(sign_in, scene, "bob")]
    newest = sign_in(scene.ada).get(reverse("new-notices"), {"after": "x" * 50}).json()
    assert newest["notices"] == []


def news(sign_in: SignIn, scene: Scene, who: str) -> list[dict[str, str]]:
    answer = sign_in(scene.everybody()[who]).get(reverse("new-notices"), {"after": "0"})
    found: list[dict[str, str]] = answer.json()["notices"]
    return found


def tell(scene: Scene) -> None:
    notify(
        recipient=scene.ada, lease=scene.active, kind="lease-running", subject="It runs", body="See it.",
        now=datetime.now(UTC),
    )  # fmt: skip


@pytest.mark.django_db
@pytest.mark.timeout(90)
def test_an_open_page_shows_them(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada)
    page.add_init_script(RECORDER)
    page.goto(reverse("notices"))
    page.get_by_label("Browser: It is ready").check()
    page.get_by_role("button", name="Save", exact=True).first.click()
    page.get_by_role("button", name="Show notices here").click()
    expect(page.get_by_text("This browser shows notices")).to_be_visible()
    page.goto("/")
    site.do(tell)
    page.wait_for_function(
        "() => { htmx.trigger('[data-live]', 'refresh'); return window.shown.length === 1; }", polling=300
    )
    assert page.evaluate("window.shown[0][0]") == "It runs"
