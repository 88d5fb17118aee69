"""Notices and hand-overs over the API: what is one's own, what has been read, and who decides."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from leasing.audit.verifier import verify_log
from leasing.fsck import run_checks
from leasing.models import HandOver, Lease, NoticeSettings
from leasing.notices import notify
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.test_access import asked_over
from tests.web.test_api import Api

pytestmark = pytest.mark.django_db


def tell(scene: Scene, who: str, subject: str) -> int:
    made = notify(
        recipient=scene.everybody()[who], lease=scene.active, kind="lease-running", subject=subject,
        body="See it.", now=datetime.now(UTC),
    )  # fmt: skip
    return made.pk


def unread(api: Api) -> list[str]:
    return [one["subject"] for one in api.get("notices/", unread="true").json()["results"]]


def test_notices_are_ones_own_and_are_read_one_by_one_or_up_to_one(scene: Scene) -> None:
    ada, bob = Api(scene.ada), Api(scene.bob)
    ada.post("notices/", {"until": 2**53})
    first, second, third = (tell(scene, "ada", subject) for subject in ("one", "two", "three"))
    assert unread(ada) == ["three", "two", "one"]
    told = ada.post(f"notices/{second}/", {"read": True}).json()
    assert (told["topic"], told["text"].splitlines()[0], told["lease"]) == (
        "ready", "See it.", str(scene.active.pk),
    )  # fmt: skip
    assert told["read_at"] is not None
    assert ada.post(f"notices/{second}/", {"read": True}).json()["read_at"] == told["read_at"]
    assert unread(ada) == ["three", "one"]
    assert bob.post(f"notices/{first}/", {"read": True}).status_code == 404
    assert "one" not in [one["subject"] for one in bob.get("notices/").json()["results"]]
    assert ada.post(f"notices/{second}/", {"read": False}).json()["read_at"] is None
    assert ada.post("notices/", {"until": second}).json() == {"marked": 2}
    assert unread(ada) == ["three"]
    assert bob.post("notices/", {"until": third}).status_code == 200
    assert unread(ada) == ["three"]


def test_ways_are_chosen_and_a_webhook_is_the_sessions_alone(scene: Scene, sign_in: SignIn) -> None:
    ada, session = Api(scene.ada), sign_in(scene.ada)
    assert len(ada.get("notice-settings/").json()["email"]) == 7
    ways = {"email": ["ending"], "browser": [], "webhook": ["ready", "failed"]}
    path, kind = "/api/v1/notice-settings/", "application/json"
    chosen = session.put(path, ways, content_type=kind).json()
    assert {way: chosen[way] for way in ways} == ways
    assert ada.get("notice-settings/").json() == chosen
    refused = session.put(path, {**ways, "email": ["all"]}, content_type=kind)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "email")
    hook = {"url": "https://example.org/x"}
    made = session.put(f"{path}webhook/", hook, content_type=kind)
    assert len(made.json()["secret"]) == 43
    assert ada.get("notice-settings/").json()["webhook_url"] == hook["url"]
    assert session.delete(f"{path}webhook/").status_code == 204
    assert NoticeSettings.objects.get().url == ""


def test_an_approver_decides_on_a_hand_over_and_sees_that_it_waits(scene: Scene, sign_in: SignIn) -> None:
    approver = Api(scene.approver)
    page = sign_in(scene.approver)
    assert '<span class="count">1</span>' in page.get("/").content.decode()
    waiting = asked_over(scene)["hand_over_id"]
    assert '<span class="count">2</span>' in page.get("/").content.decode()
    (asked,) = approver.get("hand-overs/", state="asked").json()["results"]
    assert (asked["id"], asked["giver"], asked["taker"]) == (str(waiting), "ada", "finance")
    assert "0" in asked["because"]
    path = f"hand-overs/{waiting}/decision/"
    for who in (scene.ada, scene.finance, scene.bob):
        assert Api(who).post(path, {"decision": "approve"}).status_code == 404
    assert approver.post(path, {"decision": "reject"}).json()["errors"][0]["field"] == "note"
    assert HandOver.objects.get(pk=waiting).state == "asked"
    decided = approver.post(path, {"decision": "approve", "note": "For the fair."}).json()
    assert (decided["state"], decided["decided_by"], decided["decision_note"]) == (
        "accepted", "approver", "For the fair.",
    )  # fmt: skip
    assert Lease.objects.get(pk=scene.active.pk).owner == scene.finance
    assert approver.post(path, {"decision": "approve"}).status_code == 404
    assert '<span class="count">1</span>' in page.get("/").content.decode()
    assert run_checks(datetime.now(UTC)) == []
    assert verify_log().problems == []
