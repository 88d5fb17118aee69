"""Home volumes on the pages and over the API: booked with a workstation, kept, there again, and removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from hosts.models import Host, StoragePool
from hosts.protocol import messages as m
from hosts.protocol.homes import HomeRemoved
from leasing import policy
from leasing.actors import SYSTEM
from leasing.ending import end_lease
from leasing.models import HomeVolume, Lease, OutboxMessage, Series
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site, wait_until

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]


def offer_homes(scene: Scene) -> None:
    pool, _ = StoragePool.objects.get_or_create(name="studio")
    Host.objects.filter(pk=scene.host.row.pk).update(pool=pool)


def bring_up(scene: Scene) -> Lease:
    """What was booked last, in the time that the pages go by."""
    scene.now = datetime.now(UTC)
    lease = Lease.objects.latest("requested_at")
    scene.beat()
    scene.start(lease)
    return lease


def end(scene: Scene) -> None:
    scene.now = datetime.now(UTC)
    lease = Lease.objects.latest("requested_at")
    gpu = lease.holds.get().gpu
    end_lease(actor=scene.actor(scene.ada), lease_id=lease.pk, now=scene.now)
    scene.tick()
    scene.host.say(m.MachineGone(lease_id=lease.pk), at=scene.now, command=scene.command(lease, "release"))
    scene.scrub(scene.host, gpu, lease=lease)


def until_free(site: Site) -> None:
    """The second is over in which its GPU was given back."""
    last = site.do(lambda _scene: Lease.objects.latest("requested_at").holds.get().ends_at)
    wait_until(lambda: datetime.now(UTC) > last)


def remove(scene: Scene) -> None:
    scene.tick()
    order = OutboxMessage.objects.filter(kind="remove-home").latest("created_at")
    scene.host.say(HomeRemoved(volume_id=HomeVolume.objects.get().pk), at=scene.now, command=order)


def test_what_is_kept_is_there_again_until_it_is_removed(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada)
    page.goto(reverse("book"))
    assert page.get_by_label("Attach my home volume").count() == 0
    site.do(offer_homes)
    for turn in ("first", "again"):
        page.goto(reverse("book"))
        expect(page.locator("#home-about")).to_contain_text(
            "made now" if turn == "first" else "50 GiB that stay when the workstation ends. One"
        )
        page.get_by_label("Attach my home volume").check()
        page.get_by_role("button", name="Book it").click()
        expect(page.get_by_text("will be attached")).to_be_visible()
        lease = site.do(bring_up)
        page.goto(reverse("workstation", args=[lease.pk]))
        expect(page.get_by_text("50 GiB, attached")).to_be_visible()
        page.goto(reverse("workstation-end", args=[lease.pk]))
        expect(page.get_by_text("Your home volume is kept")).to_be_visible()
        page.goto(reverse("storage"))
        row = page.locator("[data-volume]")
        expect(row).to_contain_text("attached")
        expect(row.get_by_role("link", name="Remove")).to_have_count(0)
        site.do(end)
        until_free(site)
        page.reload()
        expect(row).to_contain_text("kept")
        expect(row).to_contain_text(lease.machine_name)
    row.get_by_role("link", name="Remove").click()
    expect(page.get_by_text("Nobody can bring them back")).to_be_visible()
    page.get_by_role("button", name="Remove it").click()
    expect(row).to_contain_text("being removed")
    site.do(remove)
    page.reload()
    expect(page.get_by_text("You have none yet. Tick")).to_be_visible()
    assert visits.complaints == []


def test_what_it_costs_is_set_shown_and_on_a_line_of_its_own(visits: Visits, site: Site) -> None:
    site.do(offer_homes)
    money = visits.page(site.scene.money)
    money.goto(reverse("prices"))
    volumes = money.get_by_role("region", name="Home volumes")
    expect(volumes).to_contain_text("What is kept costs nothing.")
    volumes.get_by_text("Set a price").click()
    volumes.get_by_label("Per GiB and month, net").fill("0.146")
    volumes.get_by_role("button", name="Set").click()
    expect(volumes).to_contain_text("€0.1460")
    expect(volumes).to_contain_text("in force")
    page = visits.page(site.scene.ada)
    page.goto(reverse("book"))
    expect(page.locator("#home-about")).to_contain_text("It costs €7.30 a month until you remove it.")
    page.get_by_label("Attach my home volume").check()
    page.get_by_role("button", name="Book it").click()
    expect(page.get_by_text("will be attached")).to_be_visible()
    site.do(bring_up)
    page.goto(reverse("storage"))
    expect(page.locator("[data-volume]")).to_contain_text("€7.30")
    money.goto(reverse("usage-lines"))
    name = site.do(lambda _scene: HomeVolume.objects.get().name)
    line = money.get_by_role("row").filter(has_text=name)
    expect(line).to_contain_text("kept files")
    line.get_by_role("link").click()
    expect(money.get_by_text("still kept")).to_be_visible()
    expect(money.get_by_text("50 GiB")).to_be_visible()
    address = money.url
    money.goto(reverse("usage") + "?by=model")
    expect(money.get_by_role("cell", name="Storage").first).to_be_visible()
    auditor = visits.page(site.scene.auditor)
    auditor.goto(address)
    expect(auditor.get_by_role("link", name="Home volume made")).to_be_visible()
    assert visits.complaints == []


def test_over_the_api_and_by_nobody_else(scene: Scene, sign_in: SignIn) -> None:
    offer_homes(scene)
    ada, bob = sign_in(scene.ada), sign_in(scene.bob)
    asked = {
        "flavor": scene.flavor.slug,
        "image": scene.image.slug,
        "tenant": "studio",
        "duration_seconds": 3600,
        "with_home": True,
    }
    booked = ada.post(reverse("api-leases"), asked, content_type="application/json")
    assert (booked.status_code, booked.json()["with_home"]) == (201, True)
    again = ada.post(reverse("api-leases"), asked, content_type="application/json")
    assert again.status_code == 400
    assert "with_home" in str(again.json())
    bring_up(scene)
    (volume,) = ada.get(reverse("api-homes")).json()["results"]
    assert (volume["pool"], volume["tenant"], volume["state"]) == ("studio", "studio", "attached")
    assert "key" not in str(volume)
    assert bob.get(reverse("api-homes")).json()["results"] == []
    address = reverse("api-home", args=[volume["id"]])
    assert (ada.delete(address).status_code, bob.delete(address).status_code) == (409, 404)
    assert bob.get(reverse("remove-home", args=[volume["id"]])).status_code == 404
    end(scene)
    assert ada.delete(address).json()["state"] == "removing"


def test_what_is_repeated_has_it_on_each_date(scene: Scene, sign_in: SignIn) -> None:
    offer_homes(scene)
    day = datetime.now(UTC).date() + timedelta(days=20)
    asked = {
        "tenant": "studio", "flavor": scene.flavor.slug, "image": scene.image.slug, "when": "at",
        "starts_at": f"{day}T09:00", "length": "2h", "weekdays": ["1", "2", "3", "4", "5", "6", "7"],
        "last_on": f"{day + timedelta(days=2)}", "with_home": "1",
    }  # fmt: skip
    ada = sign_in(scene.ada)
    booked = ada.post(reverse("book"), asked, follow=True)
    assert "attached on each date" in booked.content.decode()
    series = Series.objects.filter(owner=scene.ada).latest("requested_at")
    assert list(series.leases.values_list("with_home", flat=True)) == [True] * 3
    again = ada.get(reverse("book-price"), asked | {"starts_at": f"{day}T08:00"}).content.decode()
    assert again.count("Your home volume is booked with") == 3


def test_over_the_api_too_and_from_no_snapshot_of_others(scene: Scene, sign_in: SignIn) -> None:
    offer_homes(scene)
    day = datetime.now(UTC).date() + timedelta(days=20)
    asked = {
        "tenant": "studio", "flavor": scene.flavor.slug, "weekdays": [1, 2, 3, 4, 5, 6, 7], "starts": "09:00",
        "ends": "11:00", "zone": "Europe/Berlin", "with_home": True,
        "first_on": f"{day}", "last_on": f"{day + timedelta(days=1)}",
    }  # fmt: skip
    ada = sign_in(scene.ada)

    def post(name: str, **more: object) -> Any:
        return ada.post(reverse(name), asked | more, content_type="application/json")

    plan = post("api-series-preview").json()
    assert [one["booked"] for one in plan["occurrences"]] == [True, True]
    refused = post("api-series-list", image=scene.image.slug, snapshot=str(uuid4()))
    assert refused.status_code == 400
    assert "snapshot" in str(refused.json())
    leases = post("api-series-list", image=scene.image.slug).json()["leases"]
    assert [lease["with_home"] for lease in leases] == [True, True]
    lost = post("api-series-preview").json()["occurrences"][0]["obstacles"]
    assert "is booked with" in str(lost)


def test_what_somebody_left_behind_stands_on_the_teams_page(scene: Scene, sign_in: SignIn) -> None:
    offer_homes(scene)
    asked = {"flavor": scene.flavor.slug, "image": scene.image.slug, "tenant": "studio", "with_home": True}
    asked["duration_seconds"] = 3600
    sign_in(scene.ada).post(reverse("api-leases"), asked, content_type="application/json")
    bring_up(scene)
    end(scene)
    leader, address = sign_in(scene.approver), reverse("remove-home", args=[HomeVolume.objects.get().pk])
    assert leader.get(address).status_code == 404
    policy.revoke_role(actor=SYSTEM, person=scene.ada, tenant=scene.studio, role="member", now=scene.now)
    assert address in leader.get(reverse("team", args=["studio"])).content.decode()
    assert "who has left the team" in leader.get(address).content.decode()
    assert leader.post(address)["Location"] == reverse("team", args=["studio"])
    assert HomeVolume.objects.get().state == "removing"
