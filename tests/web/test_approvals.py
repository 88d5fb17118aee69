"""Approvals on their page and over the API: what is known, the decision, and its undoing."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.urls import reverse

from leasing.actors import SYSTEM
from leasing.models import Lease
from leasing.quotas import set_quota
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)


@pytest.fixture
def approver(scene: Scene, sign_in: SignIn) -> Client:
    set_quota(
        actor=SYSTEM, tenant=scene.studio, kind="budget", value=Decimal(60), currency="EUR", now=scene.now
    )
    return sign_in(scene.approver)


def page(client: Client) -> str:
    return re.sub(r"\s+", " ", client.get("/approvals/").content.decode())


def decide(client: Client, lease: Lease, **body: str) -> str:
    answer = client.post(reverse("decide", args=[lease.pk]), body, follow=True)
    lease.refresh_from_db()
    return answer.content.decode()


def post(client: Client, lease: Lease, act: str, **body: Any) -> tuple[int, dict[str, Any]]:
    answer = client.post(
        f"/api/v1/leases/{lease.pk}/{act}/", json.dumps(body), content_type="application/json"
    )
    return answer.status_code, answer.json()


def test_each_request_shows_what_has_to_be_known(approver: Client, scene: Scene) -> None:
    shown = page(approver)
    assert "€91.20" in shown, "24 hours"
    assert "money a month" in shown
    assert '<strong>€91.20</strong> <span class="quiet small">of</span> €60.00' in shown
    assert "GPUs at the same time" in shown
    assert "Somebody else could still have one in all of this time." in shown
    (told,) = [
        row
        for row in approver.get("/api/v1/approvals/").json()["results"]
        if row["id"] == str(scene.requested.pk)
    ]
    known = told["considerations"]
    budget = next(row for row in known["measures"] if row["kind"] == "budget")
    assert (budget["asked"], budget["limit"], budget["is_over"]) == ("91.20", "60.00", True)
    assert Decimal(budget["there"]) > 0
    assert (told["may_decide"], known["another_free"]) == (True, True)


def test_ones_own_is_shown_and_not_offered(approver: Client, scene: Scene) -> None:
    rows = {row["id"]: row for row in approver.get("/api/v1/approvals/").json()["results"]}
    assert rows[str(scene.own_request.pk)]["may_decide"] is False
    assert page(approver).count('value="shorten"') == 1
    for act, body in (("approve", {}), ("reject", {"note": "no"}), ("revoke", {"note": "no"})):
        assert post(approver, scene.own_request, act, **body)[0] == 403


def test_the_workstations_page_shows_the_same(approver: Client, scene: Scene) -> None:
    shown = approver.get(reverse("workstation", args=[scene.requested.pk])).content.decode()
    assert 'data-measure="budget"' in shown
    assert 'value="shorten"' in shown


def test_approved_shorter_on_the_page(approver: Client, scene: Scene) -> None:
    lease = scene.requested
    ends_at = (lease.starts_at + 6 * HOUR).astimezone(BERLIN).strftime("%Y-%m-%dT%H:%M")
    for nonsense in ("", "tomorrow"):
        decide(approver, lease, decision="shorten", ends_at=nonsense)
        assert lease.state == "requested"
    after = decide(approver, lease, decision="shorten", ends_at=ends_at, note="Six hours.")
    assert "Approved, with the earlier end." in after
    assert lease.state == "scheduled"
    assert lease.ends_at.astimezone(BERLIN).strftime("%Y-%m-%dT%H:%M") == ends_at


def test_approved_shorter_and_taken_back_over_the_api(approver: Client, scene: Scene) -> None:
    lease = scene.requested
    ends_at = lease.starts_at + 6 * HOUR
    status, problem = post(approver, lease, "approve", ends_at=(lease.ends_at + HOUR).isoformat())
    assert (status, problem["errors"][0]["field"]) == (400, "ends_at")
    status, told = post(approver, lease, "approve", ends_at=ends_at.isoformat())
    assert (status, told["state"], told["quoted_total"]) == (200, "scheduled", "22.80")
    assert post(approver, lease, "revoke")[0] == 400
    status, told = post(approver, lease, "revoke", note="I misread it.")
    assert (status, told["outcome"], told["outcome_reason"]) == (200, "rejected", "I misread it.")
    status, problem = post(approver, lease, "revoke", note="Again.")
    assert (status, bool(problem["hint"])) == (409, True)


def test_taken_back_on_the_page_and_only_while_nothing_has_started(
    approver: Client, scene: Scene, sign_in: SignIn
) -> None:
    assert "Take the approval back" not in page(approver)
    decide(approver, scene.requested, decision="approve", note="Go.")
    assert "Take the approval back" in page(approver)
    decide(approver, scene.requested, decision="revoke")
    assert scene.requested.state == "scheduled", "without a reason nothing is taken back"
    assert "Taken back" in decide(approver, scene.requested, decision="revoke", note="The stand is off.")
    assert scene.requested.outcome == "rejected"
    shown = sign_in(scene.ada).get(reverse("workstation", args=[scene.requested.pk])).content.decode()
    assert "The stand is off." in shown
    assert "The approval was taken back" in shown
    assert "Take the approval back" not in page(approver)
