"""A team's people as they do it: invited by keyboard, joining with a new account, and removed again."""

from __future__ import annotations

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from leasing.actors import SYSTEM
from leasing.models import Lease, Person
from leasing.policy import grant_role, has_role
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]


def test_somebody_is_invited_by_keyboard_and_joins_with_a_new_account(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.approver)
    page.goto("/teams/")
    page.get_by_label("E-mail").focus()
    page.keyboard.type("dora@example.org")
    for key in ("Tab", "Tab", "Tab", "Enter"):  # the role of a member is chosen
        page.keyboard.press(key)
    link = page.locator("#new-link").inner_text()
    theirs = visits.page()
    theirs.goto(link)
    theirs.get_by_label("Your name").fill("Dora Diaz")
    theirs.get_by_label("User name").fill("dora")
    theirs.get_by_label("Password").fill("1234")
    theirs.keyboard.press("Enter")
    expect(theirs.get_by_role("alert")).to_contain_text("too short")
    theirs.get_by_label("Password").fill("correct-horse-battery")
    theirs.keyboard.press("Enter")
    expect(theirs.get_by_text("Welcome to Studio.")).to_be_visible()
    assert site.do(lambda s: has_role(Person.objects.get(username="dora"), s.studio, "member"))
    theirs.goto(link)
    expect(theirs.get_by_text("This invitation was used")).to_be_visible()


def test_leaving_shows_what_becomes_of_it_and_hands_over(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.approver)
    url = reverse("leave-team", args=["studio", "ada"])
    page = client.get(url)
    assert "is cancelled" in page.content.decode()
    assert "ends at its end" in page.content.decode()
    data = {"seen": page.context["found"].seen, f"heir-{scene.scheduled.pk}": "approver"}
    client.post(url, data)
    assert Lease.objects.get(pk=scene.scheduled.pk).owner == scene.approver
    assert Lease.objects.get(pk=scene.requested.pk).outcome == "cancelled"
    assert Lease.objects.get(pk=scene.active.pk).state == "active"
    assert sign_in(scene.ada).get(reverse("workstation", args=[scene.active.pk])).status_code == 404


def test_an_owner_closes_the_team_by_its_name(scene: Scene, sign_in: SignIn) -> None:
    grant_role(actor=SYSTEM, person=scene.approver, tenant=scene.studio, role="owner", now=scene.now)
    client, url = sign_in(scene.approver), reverse("close-team", args=["studio"])
    seen = client.get(url).context["found"].seen
    assert client.post(url, {"seen": seen, "typed": "studio"}).status_code == 400
    assert client.post(url, {"seen": seen, "typed": "Studio"}).status_code == 302
    scene.studio.refresh_from_db()
    assert scene.studio.closed_at is not None
