"""Quotas on their page and over the API: what is used, who decides, and what a lower one does not do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from leasing.actors import SYSTEM
from leasing.models import Lease, QuotaRequest
from leasing.policy import grant_role
from leasing.quotas import set_quota
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

FORM = {"tenant": "studio", "whose": "me", "kind": "longest", "value": "200", "reason": "The new stand"}
ASK = {"tenant": "studio", "kind": "longest", "value": "200", "reason": "The new stand"}


@pytest.fixture
def ada(scene: Scene, sign_in: SignIn) -> Client:
    return sign_in(scene.ada)


@pytest.fixture
def approver(scene: Scene, sign_in: SignIn) -> Client:
    return sign_in(scene.approver)


def page(client: Client) -> str:
    return client.get("/quota/").content.decode()


def limits(client: Client) -> dict[str, dict[str, Any]]:
    """The caller's limits in the studio, by kind."""
    tenants = {row["tenant"]: row["limits"] for row in client.get("/api/v1/limits/").json()}
    return {limit["kind"]: limit for limit in tenants["studio"]}


def post(client: Client, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    answer = client.post(f"/api/v1/{path}", json.dumps(body), content_type="application/json")
    return answer.status_code, answer.json()


def book_long(client: Client) -> dict[str, Any]:
    """For longer than the team's limit allows, in the distance."""
    begin = datetime.now(UTC) + timedelta(days=50)
    asked = {"tenant": "studio", "flavor": "studio", "image": "tenant", "starts_at": begin.isoformat()}
    end = begin + timedelta(hours=190)
    status, made = post(client, "leases/", asked | {"ends_at": end.isoformat()})
    assert status == 201, made
    return made


def test_a_larger_one_is_asked_for_and_granted_and_both_read_the_history(
    ada: Client, approver: Client
) -> None:
    ada.post("/quota/ask/", FORM | {"reason": "", "back": "/quota/"})
    assert not QuotaRequest.objects.exists()
    ada.post("/quota/ask/", FORM)
    asked = QuotaRequest.objects.get()
    assert "The new stand" in page(ada)
    assert "Grant" not in page(ada)
    assert "Grant" in page(approver)
    assert book_long(ada)["state"] == "requested"
    until = f"{datetime.now(UTC) + timedelta(days=90):%Y-%m-%dT%H:%M}"
    granted = {"decision": "grant", "note": "Good luck", "until": until}
    approver.post(f"/quota/{asked.pk}/", granted)
    for reader in (ada, approver):
        assert "Good luck" in page(reader)
        (told,) = reader.get("/api/v1/quota-requests/").json()["results"]
        assert (told["state"], told["decided_by"], told["note"]) == ("granted", "approver", "Good luck")
    told = limits(ada)["longest"]
    assert (told["value"], told["own"], told["until"] is None) == ("200.00", True, False)
    assert book_long(ada)["state"] == "scheduled"


def test_strangers_read_nothing_of_it(ada: Client, scene: Scene, sign_in: SignIn) -> None:
    _status, made = post(ada, "quota-requests/", ASK)
    bob = sign_in(scene.bob)
    assert bob.get("/api/v1/quota-requests/").json()["results"] == []
    assert "The new stand" not in page(bob)
    assert post(bob, f"quota-requests/{made['id']}/decision/", {"decision": "grant"})[0] == 404
    assert bob.post(f"/quota/{made['id']}/", {"decision": "grant"}).status_code == 404


def test_nobody_grants_their_own(ada: Client, scene: Scene) -> None:
    """Not on the page, nor over the API, nor as an approver of the same team."""
    grant_role(actor=SYSTEM, person=scene.ada, tenant=scene.studio, role="approver", now=scene.now)
    status, made = post(ada, "quota-requests/", ASK)
    assert status == 201
    assert 'value="grant"' not in page(ada)
    refused = ada.post(f"/quota/{made['id']}/", {"decision": "grant"})
    assert refused.status_code == 403
    assert "Nobody decides on their own request" in refused.content.decode()
    status, problem = post(ada, f"quota-requests/{made['id']}/decision/", {"decision": "grant"})
    assert (status, "Nobody decides" in problem["detail"]) == (403, True)
    assert QuotaRequest.objects.get().state == "open"


def test_what_is_used_is_said_on_both(ada: Client, scene: Scene) -> None:
    now = scene.until
    for kind, value, currency in (("gpu-hours", 500, ""), ("budget", 900, "EUR")):
        set_quota(
            actor=SYSTEM, tenant=scene.studio, kind=kind, value=Decimal(value), currency=currency, now=now
        )
    told = limits(ada)
    assert {kind: told[kind]["used"] is not None for kind in told} == {
        "gpus": True, "longest": False, "ahead": False, "gpu-hours": True, "budget": True,
    }  # fmt: skip
    assert int(Decimal(told["gpus"]["used"])) == 2
    assert told["gpus"]["month"] == ""
    assert len(told["gpu-hours"]["month"]) == len("2026-03")
    hours, money = (Decimal(told[kind]["used"]) for kind in ("gpu-hours", "budget"))
    assert hours > 5
    assert abs(money - hours * Decimal("3.8")) < Decimal("0.1")
    assert f"€{money}" in page(ada)
    assert "this month" in page(ada)


def test_a_lowered_one_cancels_nothing_and_says_so_before_the_next_booking(ada: Client, scene: Scene) -> None:
    booked = dict(Lease.objects.exclude(state="ended").values_list("pk", "state"))
    set_quota(actor=SYSTEM, tenant=scene.studio, kind="gpus", value=Decimal(0), now=scene.now)
    scene.tick(after=timedelta(0))
    assert booked.items() <= dict(Lease.objects.values_list("pk", "state")).items()
    home = ada.get("/").content.decode()
    assert all(str(pk) in home for pk in (scene.active.pk, scene.scheduled.pk))
    states = {row["id"]: row["state"] for row in ada.get("/api/v1/leases/").json()["results"]}
    assert states[str(scene.scheduled.pk)] == "scheduled"
    assert limits(ada)["gpus"]["value"] == "0.00"
    quote = {"tenant": "studio", "flavor": "studio", "duration_seconds": 3600}
    assert "at most 0" in post(ada, "quote/", quote)[1]["approval_because"]


def test_an_approver_limits_a_person_and_lifts_it_again(ada: Client, approver: Client) -> None:
    form = {"limit-tenant": "studio", "limit-person": "ada", "limit-kind": "gpus", "limit-value": "1"}
    assert "Set a limit" not in page(ada)
    approver.post("/quota/limits/", form)
    assert 'data-person-limit="ada"' in page(approver)
    assert limits(ada)["gpus"]["own"] is True
    refused = approver.post("/quota/limits/", form | {"limit-person": "bob", "back": "/quota/"}, follow=True)
    assert "Nobody in the team has this user name." in refused.content.decode()
    assert ada.post("/quota/limits/", form).status_code == 302
    assert limits(ada)["gpus"]["value"] == "1.00"
    approver.post("/quota/limits/", form | {"limit-value": ""})
    assert 'data-person-limit="ada"' not in page(approver)
    asked = {"tenant": "studio", "person": "ada", "kind": "longest", "value": "300"}
    status, told = post(approver, "limits/", asked)
    assert (status, told["people"][0]["value"]) == (200, "300.00")
    assert limits(ada)["longest"]["value"] == "300.00"
    assert post(ada, "limits/", asked)[0] == 404
    status, problem = post(approver, "limits/", asked | {"kind": "gpus", "person": "", "value": "900"})
    assert (status, "Nobody raises a limit of their own" in problem["detail"]) == (403, True)
