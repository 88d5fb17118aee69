"""Snapshots on the pages and over the API: wanted, saved before the end, started from, and removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from hosts.protocol import messages as m
from hosts.protocol.snapshots import SnapshotRemoved, SnapshotTaken
from leasing.actors import SYSTEM
from leasing.audit.verifier import verify_log
from leasing.billing.prices import set_storage_rate
from leasing.ending import end_lease
from leasing.fsck import run_checks
from leasing.models import Lease, OutboxMessage, Snapshot
from leasing.policy import revoke_role
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site
from tests.web.test_homes import bring_up, offer_homes

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]
TAKEN = 5 * 1024**3
JSON = "application/json"


def asked(scene: Scene) -> dict[str, object]:
    return {
        "flavor": scene.flavor.slug,
        "image": scene.image.slug,
        "tenant": "studio",
        "duration_seconds": 3600,
    }


def the_one() -> Snapshot:
    return Snapshot.objects.exclude(state="removed").get()


def cost(scene: Scene) -> None:
    set_storage_rate(
        actor=scene.actor(scene.money),
        per_gib_month=Decimal("7.3"),
        currency="EUR",
        now=datetime.now(UTC),
    )


def saved_and_gone(scene: Scene) -> None:
    """The host has done what the release asked of it."""
    scene.now = datetime.now(UTC)
    snapshot = the_one()
    lease = snapshot.lease
    scene.tick()
    order = scene.command(lease, "release")
    done = SnapshotTaken(snapshot_id=snapshot.pk, lease_id=lease.pk, size_bytes=TAKEN)
    gpu = lease.holds.get().gpu
    scene.host.say(done, at=scene.now, command=order)
    scene.host.say(m.MachineGone(lease_id=lease.pk), at=scene.now, command=order)
    scene.scrub(scene.host, gpu, lease=lease)


def cancel(scene: Scene) -> None:
    scene.now = datetime.now(UTC)
    lease = Lease.objects.latest("requested_at")
    gpu = lease.holds.get().gpu
    end_lease(actor=scene.actor(scene.ada), lease_id=lease.pk, now=scene.now)
    scene.tick()
    scene.host.say(m.MachineGone(lease_id=lease.pk), at=scene.now, command=scene.command(lease, "release"))
    scene.scrub(scene.host, gpu, lease=lease)


def removed(scene: Scene) -> list[object]:
    scene.now = datetime.now(UTC)
    scene.tick()
    order = OutboxMessage.objects.filter(kind="remove-snapshot").latest("created_at")
    scene.host.say(SnapshotRemoved(snapshot_id=the_one().pk), at=scene.now, command=order)
    return [*run_checks(scene.now), *verify_log().problems]


def is_billed(page: Page, name: str, machine: str) -> None:
    """It has a line of its own, which says what it is."""
    page.goto(reverse("usage-lines"))
    page.get_by_role("row").filter(has_text=name).get_by_role("link").click()
    expect(page.get_by_role("heading", name="The snapshot")).to_be_visible()
    expect(page.get_by_text(machine)).to_be_visible()


def test_saved_before_the_end_started_from_and_removed(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada)
    site.do(offer_homes)
    site.do(cost)
    page.goto(reverse("storage"))
    expect(page.get_by_text("Take one on the page of a workstation")).to_be_visible()
    page.goto(reverse("book"))
    expect(page.get_by_label("Start from")).to_have_count(0)
    page.get_by_role("button", name="Book it").click()
    lease = site.do(bring_up)
    here = reverse("workstation", args=[lease.pk])
    page.goto(here)
    page.get_by_role("button", name="Take it at the end").click()
    expect(page.get_by_text("is taken when it ends, and stays")).to_be_visible()
    page.get_by_role("link", name="Take none").click()
    page.get_by_role("button", name="Take none").click()
    page.goto(reverse("workstation-end", args=[lease.pk]))
    expect(page.get_by_text("You can save its disk")).to_be_visible()
    page.get_by_role("button", name="Save its disk, then end").click()
    expect(page.get_by_text("its disk is copied now")).to_be_visible()
    site.do(saved_and_gone)
    page.goto(reverse("storage"))
    row = page.locator("[data-snapshot]")
    expect(row).to_contain_text("kept")
    expect(row).to_contain_text(lease.machine_name)
    expect(row).to_contain_text("5.0")
    expect(row).to_contain_text("€36.50 a month")
    is_billed(visits.page(site.scene.money), site.do(lambda _: the_one().name), lease.machine_name)
    row.get_by_role("link", name="Start from it").click()
    expect(page.get_by_label("Start from")).to_have_value(str(site.do(lambda _: the_one().pk)))
    page.get_by_role("button", name="Book it").click()
    expect(page.get_by_text("Started from")).to_be_visible()
    page.goto(reverse("storage"))
    row.get_by_role("link", name="Remove").click()
    page.get_by_role("button", name="Remove it").click()
    expect(page.get_by_text("is booked to start from it")).to_be_visible()
    site.do(bring_up)
    site.do(cancel)
    page.goto(reverse("storage"))
    row.get_by_role("link", name="Remove").click()
    expect(page.get_by_text("Nobody can bring it back")).to_be_visible()
    page.get_by_role("button", name="Remove it").click()
    expect(row).to_contain_text("being removed")
    assert site.do(removed) == []
    page.reload()
    expect(row).to_have_count(0)
    assert visits.complaints == []


def test_over_the_api_and_by_nobody_else(scene: Scene, sign_in: SignIn) -> None:
    offer_homes(scene)
    ada, bob = sign_in(scene.ada), sign_in(scene.bob)
    first = ada.post(reverse("api-leases"), asked(scene), content_type=JSON).json()["id"]
    bring_up(scene)
    take = reverse("api-lease-snapshot", args=[first])
    refused = ada.post(take, {}, content_type=JSON)
    assert (refused.status_code, "Its machine is on" in refused.content.decode()) == (409, True)
    assert bob.post(take, {}, content_type=JSON).status_code == 404
    ended = ada.post(reverse("api-lease-end", args=[first]), {"snapshot": True}, content_type=JSON)
    assert ended.json()["state"] == "releasing"
    saved_and_gone(scene)
    (snapshot,) = ada.get(reverse("api-snapshots")).json()["results"]
    assert (snapshot["state"], snapshot["size_bytes"], snapshot["lease"]) == ("kept", TAKEN, first)
    assert "key" not in str(snapshot)
    assert bob.get(reverse("api-snapshots")).json()["results"] == []
    later = (scene.now + timedelta(minutes=30)).isoformat()
    again = asked(scene) | {"snapshot": snapshot["id"], "starts_at": later}
    booked = ada.post(reverse("api-leases"), again, content_type=JSON).json()
    assert booked.get("snapshot") == snapshot["id"], booked
    other = ada.post(reverse("api-leases"), asked(scene) | {"snapshot": first}, content_type=JSON)
    assert (other.status_code, "no such snapshot" in other.content.decode()) == (400, True)
    address = reverse("api-snapshot", args=[snapshot["id"]])
    assert (ada.delete(address).status_code, bob.delete(address).status_code) == (409, 404)
    assert bob.get(reverse("remove-snapshot", args=[snapshot["id"]])).status_code == 404
    ada.post(reverse("api-lease-end", args=[booked["id"]]), {}, content_type=JSON)
    assert ada.delete(address).json()["state"] == "removing"


def test_nothing_repeated_starts_from_one_that_is_not_kept_and_what_is_left_is_the_teams(
    scene: Scene, sign_in: SignIn
) -> None:
    offer_homes(scene)
    ada = sign_in(scene.ada)
    ada.post(reverse("api-leases"), asked(scene), content_type="application/json")
    bring_up(scene)
    lease = Lease.objects.latest("requested_at")
    Lease.objects.filter(pk=lease.pk).update(machine="off")
    assert ada.post(reverse("workstation-snapshot", args=[lease.pk])).status_code == 302
    snapshot = the_one()
    assert snapshot.state == "taking"
    day = datetime.now(UTC).date() + timedelta(days=20)
    page = ada.post(
        reverse("book"),
        {
            "tenant": "studio", "flavor": scene.flavor.slug, "image": scene.image.slug, "when": "at",
            "starts_at": f"{day}T09:00", "length": "2h", "weekdays": [str(day.isoweekday())],
            "last_on": f"{day}", "snapshot": str(snapshot.pk),
        },
    )  # fmt: skip
    assert (page.status_code, "You have no such snapshot." in page.content.decode()) == (400, True)
    leader, address = sign_in(scene.approver), reverse("remove-snapshot", args=[snapshot.pk])
    assert leader.get(address).status_code == 404
    revoke_role(actor=SYSTEM, person=scene.ada, tenant=scene.studio, role="member", now=scene.now)
    assert "being taken" in leader.get(reverse("team", args=["studio"])).content.decode()
    assert "who has left the team" in leader.get(address).content.decode()
