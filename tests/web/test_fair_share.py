"""What the fair share of a team weighs: operators set it, auditors read it, those in line are told."""

from __future__ import annotations

import json
from html import unescape

import pytest
from django.urls import reverse

from leasing.models import AuditEntry
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.test_pages import text_of


def test_operators_set_it_and_whom_it_concerns_read_it(scene: Scene, sign_in: SignIn) -> None:
    operator = sign_in(scene.operator)
    answer = operator.post(reverse("weight", args=["studio"]), {"weight": "3"}, follow=True)
    page = unescape(answer.content.decode())
    assert "The fair share of Studio weighs 3 from now on." in page
    assert "75 %" in page
    entry = AuditEntry.objects.get(action="tenant.weigh")
    assert (entry.actor, entry.subject, entry.tenant) == ("operator", "tenant:studio", scene.studio)
    detail = json.loads(entry.text)["detail"]
    assert (detail["was"], detail["weight"]) == (1, 3)
    for reader in (scene.auditor, scene.approver):
        assert "Weight of the team's fair share changed" in unescape(text_of(sign_in(reader), "audit"))
    waits = reverse("waiting", args=[scene.wait_in_line()[1].pk])
    assert "that of Studio is 3" in sign_in(scene.ada).get(waits).content.decode()


def test_the_api_sets_and_tells_it(scene: Scene, sign_in: SignIn) -> None:
    operator = sign_in(scene.operator)
    where, kind = reverse("api-weight", args=["studio"]), "application/json"
    assert operator.post(where, {"weight": 5}, content_type=kind).json()["weight"] == 5
    assert operator.post(where, {"weight": 5}, content_type=kind).status_code == 200
    assert AuditEntry.objects.filter(action="tenant.weigh").count() == 1, "nothing changed the second time"
    found = {
        row["slug"]: row["weight"] for row in sign_in(scene.auditor).get("/api/v1/weights/").json()["results"]
    }
    assert found == {"studio": 5, "research": 1}
    (mine,) = sign_in(scene.ada).get("/api/v1/tenants/").json()["results"]
    assert mine["weight"] == 5
    assert operator.post(where, {"weight": 1001}, content_type=kind).status_code == 400


@pytest.mark.parametrize("weight", ["0", "-1", "1.5", "1001", "²", "", "9" * 9])
def test_a_weight_that_makes_no_sense_is_told_in_words(scene: Scene, sign_in: SignIn, weight: str) -> None:
    form = {"weight": weight, "back": reverse("weights")}
    answer = sign_in(scene.operator).post(reverse("weight", args=["studio"]), form, follow=True)
    assert "The weight is a whole number from 1 to 1000." in answer.content.decode()
    scene.studio.refresh_from_db()
    assert scene.studio.weight == 1


def test_an_auditor_changes_nothing(scene: Scene, sign_in: SignIn) -> None:
    page = text_of(sign_in(scene.auditor), "weights")
    assert "50 %" in page
    assert reverse("weight", args=["studio"]) not in page
