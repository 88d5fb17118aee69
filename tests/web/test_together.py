"""Sharing and handing over as people do it: two browsers, one of them by keyboard alone."""

from __future__ import annotations

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from leasing.models import Lease, Share
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]
SOON = 15_000


def test_shared_by_keyboard_used_by_a_colleague_and_withdrawn(visits: Visits, site: Site) -> None:
    lease = site.scene.active
    hers, theirs = visits.page(site.scene.ada), visits.page(site.scene.approver)
    theirs.goto("/")
    expect(theirs.get_by_text("shares it with you")).to_have_count(0)
    hers.goto(reverse("workstation", args=[lease.pk]))
    hers.get_by_text("Share it with a colleague").focus()
    for key in ("Enter", "Tab"):
        hers.keyboard.press(key)
    hers.keyboard.type("approver")
    for key in ("Escape", "Tab", "u", "Tab", "Enter"):
        hers.keyboard.press(key)
    expect(hers.get_by_text("Shared with Petra Hahn")).to_be_visible()
    assert site.do(lambda _scene: Share.objects.get().level) == "use"
    expect(theirs.get_by_text("Ada Lindqvist shares it with you")).to_be_visible(timeout=SOON)
    theirs.locator(f'[data-lease="{lease.pk}"]').get_by_role("link", name="Console").click()
    expect(theirs.locator("#screen")).to_be_visible()
    hers.get_by_role("button", name="Withdraw").click()
    expect(hers.get_by_text("It is no longer shared")).to_be_visible()
    theirs.goto("/")
    expect(theirs.get_by_text("shares it with you")).to_have_count(0)


def test_what_is_handed_over_is_on_the_others_page(scene: Scene, sign_in: SignIn) -> None:
    hers, theirs = sign_in(scene.ada), sign_in(scene.approver)
    hers.post(reverse("hand-over", args=[scene.scheduled.pk]), {"person": "approver", "note": "Away."})
    page = theirs.get("/").content.decode()
    assert "wants to hand Studio A6000 over to you" in page
    assert "Away." in page
    made = scene.scheduled.hand_overs.get()
    after = theirs.post(reverse("accept-lease", args=[made.pk]), follow=True).content.decode()
    assert "It is yours." in after
    assert Lease.objects.get(pk=scene.scheduled.pk).owner == scene.approver
    assert hers.get(reverse("workstation", args=[scene.scheduled.pk])).status_code == 404


def test_approvers_read_the_notes_of_who_asks(scene: Scene, sign_in: SignIn) -> None:
    url = reverse("add-note", args=[scene.requested.pk])
    sign_in(scene.ada).post(url, {"text": "It opens on Friday."})
    approver = sign_in(scene.approver)
    assert "It opens on Friday." in approver.get(reverse("approvals")).content.decode()
    approver.post(url, {"text": "The last one this month."})
    page = sign_in(scene.ada).get(reverse("workstation", args=[scene.requested.pk])).content.decode()
    assert "It opens on Friday." in page
    assert "The last one this month." not in page
