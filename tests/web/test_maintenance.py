"""Closing a host or a GPU: on its page and over the API, shown first."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from playwright.sync_api import expect

from leasing.models import Closure
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site

HOUR = timedelta(hours=1)


def post(client: Client, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    answer = client.post(f"/api/v1/{path}", json.dumps(body), content_type="application/json")
    return answer.status_code, answer.json() if answer.content else None


def hidden(page: str) -> dict[str, str]:
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)
    return {name: value for name, value in found if name != "csrfmiddlewaretoken"}


def test_over_the_api_it_is_shown_done_changed_and_lifted(scene: Scene, sign_in: SignIn) -> None:
    client, now = sign_in(scene.operator), timezone.now()
    times = {"host": str(scene.host.row.pk), "starts_at": (now + HOUR).isoformat(), "unmovable": "wait"}
    status, shown = post(client, "closures/preview/", times)
    assert status == 200
    fates = {one["lease"]: one["fate"] for one in shown["affected"]}
    assert fates[str(scene.active.pk)] == "runs-on"
    assert fates[str(scene.scheduled.pk)] == "waits"
    assert shown["affected"][0]["gpus"][0]["host"] == "hv1"
    assert shown["empties_at"] is not None

    status, refused = post(client, "closures/", {**times, "reason": "dust", "seen": ""})
    assert (status, refused["type"]) == (409, "urn:leasehold:problem:plan-changed")
    status, done = post(client, "closures/", {**times, "reason": "dust", "seen": shown["seen"]})
    assert status == 201
    assert {one["lease"]: one["fate"] for one in done["affected"]} == fates
    listed = client.get("/api/v1/closures/").json()["results"]
    assert [one["id"] for one in listed] == [scene.closure.pk, done["id"]]

    later = {"starts_at": (now + 2 * HOUR).isoformat(), "ends_at": (now + 3 * HOUR).isoformat()}
    status, shown = post(client, f"closures/{done['id']}/preview/", later)
    assert status == 200
    status, done = post(
        client, f"closures/{done['id']}/change/", {**later, "reason": "fan", "seen": shown["seen"]}
    )
    assert (status, done["reason"]) == (200, "fan")
    assert post(client, f"closures/{done['id']}/lift/", {}) == (204, None)
    assert post(client, f"closures/{done['id']}/lift/", {})[0] == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "host"),
        ({"host": "00000000-0000-0000-0000-000000000000"}, "host"),
        ({"gpu": "00000000-0000-0000-0000-000000000000"}, "gpu"),
        ({"unmovable": "explode"}, "unmovable"),
        ({"starts_at": "2020-01-01T00:00:00Z"}, "starts_at"),
        ({"starts_at": "2020-01-01T00:00:00"}, "starts_at"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "ends_at"),
    ],
)
def test_what_cannot_be_is_refused_beside_its_field(
    scene: Scene, sign_in: SignIn, body: dict[str, str], field: str
) -> None:
    if field not in ("host", "gpu"):
        body = {**body, "host": str(scene.host.row.pk)}
    status, problem = post(sign_in(scene.operator), "closures/preview/", body)
    assert status == 400
    assert [one["field"] for one in problem["errors"]] == [field]


def test_on_the_page_it_is_shown_then_done_then_lifted(scene: Scene, sign_in: SignIn) -> None:
    """Without a script."""
    client, gpu = sign_in(scene.operator), scene.active.holds.get().gpu
    path = f"/fleet/gpus/{gpu.pk}/drain/"
    page = client.get(path).content.decode()
    assert f'data-lease="{scene.active.pk}" data-fate="runs-on"' in page
    assert "Ada Lindqvist" in page
    assert client.post(path, {"reason": "dust"}).status_code == 409
    assert client.post(path, {**hidden(page), "reason": " "}).status_code == 400
    assert Closure.objects.count() == 1
    assert client.post(path, {**hidden(page), "reason": "new fan"}).headers["Location"] == "/fleet/"
    closure = Closure.objects.get(gpu=gpu)
    for where in ("/fleet/", "/fleet/closures/", f"/fleet/gpus/{gpu.pk}/"):
        assert "new fan" in client.get(where).content.decode()
    client.post(f"/fleet/closures/{closure.pk}/lift/", {"back": "/fleet/closures/"})
    closure.refresh_from_db()
    assert closure.ends_at is not None
    assert "new fan" in client.get("/fleet/closures/").content.decode()
    assert "new fan" not in client.get("/fleet/").content.decode()


def test_times_that_cannot_be_are_said_beside_no_plan(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    for wrong in ("starts_at=2020-01-01T10:00", "ends_at=2020-01-01T10:00", "starts_at=soon"):
        answer = client.get(f"/fleet/hosts/{scene.host.row.pk}/drain/?{wrong}")
        assert answer.status_code == 400
        assert 'class="fault' in answer.content.decode()
        assert 'name="seen"' not in answer.content.decode()


def test_the_owner_reads_on_the_page_until_when_it_can_be_kept(scene: Scene, sign_in: SignIn) -> None:
    lease, client = scene.active, sign_in(scene.operator)
    path = f"/fleet/hosts/{scene.host.row.pk}/drain/"
    page = client.get(path).content.decode()
    client.post(path, {**hidden(page), "reason": "dust"})
    page = sign_in(scene.ada).get(f"/workstations/{lease.pk}/").content.decode()
    assert "at most, then its GPU is closed for maintenance" in page


@pytest.mark.timeout(90)
@pytest.mark.django_db
def test_the_list_follows_the_times_while_one_chooses(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.operator)
    page.goto("/fleet/")
    page.get_by_role("link", name="Close for maintenance").click()
    expect(page.get_by_text("leases are affected")).to_be_visible()
    page.get_by_label("Why").fill("new firmware")
    far: datetime = site.scene.until + timedelta(days=90)
    page.get_by_label("From").fill(f"{far:%Y-%m-%dT%H:%M}")
    expect(page.get_by_text("Nobody is affected")).to_be_visible()
    page.get_by_role("button", name="Close it").click()
    expect(page.get_by_text("Nobody had to move")).to_be_visible()
    expect(page.locator("[data-closure]").get_by_text("new firmware")).to_have_count(2)
