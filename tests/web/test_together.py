"""Handing over as people do it, and notes for approvers; sharing is told by keyboard (test_keyboard)."""

from __future__ import annotations

import pytest
from django.urls import reverse

from leasing.models import Lease
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]


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
