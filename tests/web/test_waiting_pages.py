"""Waiting in line on the pages and over the API: join, see how it looks, claim, decline, leave."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.urls import reverse

from leasing.models import Flavor, Lease, Tenant, WaitlistEntry
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

BERLIN = ZoneInfo("Europe/Berlin")
JSON = "application/json"


@pytest.fixture
def ada(scene: Scene, sign_in: SignIn) -> Client:
    return sign_in(scene.ada)


def shown(client: Client, name: str, *args: object) -> str:
    return " ".join(client.get(reverse(name, args=args)).content.decode().split())


def booked_out(scene: Scene) -> dict[str, str]:
    """What to choose on the book page to find nothing free, in four days."""
    scene.wait_in_line()
    start = (scene.now + timedelta(hours=101)).astimezone(BERLIN)
    return {
        "tenant": "studio",
        "flavor": "studio",
        "image": "tenant",
        "when": "at",
        "starts_at": f"{start:%Y-%m-%dT%H:%M}",
        "length": "2h",
        "ends_at": "",
        "purpose": "Frames",
    }


def test_whom_nothing_fits_is_offered_to_wait(ada: Client, scene: Scene) -> None:
    chosen = booked_out(scene)
    page = ada.get(reverse("book-price"), chosen).content.decode()
    assert "Wait in line" in page
    assert 'formaction="/waiting/join/"' in page
    assert "kept for somebody who waits for them" in page
    deadline = (scene.now + timedelta(hours=103, minutes=30)).astimezone(BERLIN)
    answer = ada.post(reverse("join-waitlist"), chosen | {"deadline": f"{deadline:%Y-%m-%dT%H:%M}"})
    entry = WaitlistEntry.objects.latest("joined_at")
    assert answer.headers["Location"] == reverse("waiting", args=[entry.pk])
    assert (entry.duration, entry.purpose) == (timedelta(hours=2), "Frames")
    assert f"{entry.deadline_at.astimezone(BERLIN):%H:%M}" == f"{deadline:%H:%M}"
    assert "You are in line" in shown(ada, "waiting", entry.pk)


def test_a_join_that_cannot_be_says_why_where_it_was_asked(ada: Client, scene: Scene) -> None:
    chosen = booked_out(scene)
    answer = ada.post(reverse("join-waitlist"), chosen | {"deadline": "", "back": "/book/"}, follow=True)
    assert answer.redirect_chain[-1][0] == "/book/"
    assert "Say by when it must have ended." in answer.content.decode()


def test_home_shows_the_offer_with_its_consequences_and_the_place(ada: Client, scene: Scene) -> None:
    offered, waits = scene.wait_in_line()
    page = shown(ada, "home")
    assert "held for you" in page
    assert "€11.40" in page
    assert "data-left=" in page
    assert "Claim it" in page
    assert "Number 2 in line for Studio A6000" in page
    assert reverse("waiting", args=[waits.pk]) in page
    assert "Why this place?" in shown(ada, "waiting", offered.pk)


def test_claiming_leads_to_the_workstation(ada: Client, scene: Scene) -> None:
    offered, _waits = scene.wait_in_line()
    answer = ada.post(reverse("claim-offer", args=[offered.pk]), follow=True)
    lease = Lease.objects.get(entry=offered)
    assert answer.redirect_chain[-1][0] == reverse("workstation", args=[lease.pk])
    assert lease.state == "scheduled"
    assert "Claimed by who waited for it" in answer.content.decode()
    assert "claimed" in shown(ada, "waiting", offered.pk)


def test_an_offer_outside_the_limits_says_so_before_it_is_claimed(ada: Client, scene: Scene) -> None:
    offered, _waits = scene.wait_in_line()
    Tenant.objects.update(concurrent_gpus=0)
    assert "needs approval" in shown(ada, "waiting", offered.pk)
    ada.post(reverse("claim-offer", args=[offered.pk]))
    assert Lease.objects.get(entry=offered).state == "requested"


def test_declining_and_leaving(ada: Client, scene: Scene) -> None:
    offered, waits = scene.wait_in_line()
    page = ada.post(reverse("decline-offer", args=[offered.pk]), follow=True).content.decode()
    assert "You keep your place in line." in page
    assert "You can let 2 more offers pass" in " ".join(page.split())
    assert (
        "You have left the line."
        in ada.post(reverse("leave-waitlist", args=[waits.pk]), follow=True).content.decode()
    )
    assert WaitlistEntry.objects.get(pk=waits.pk).outcome == "left"


def test_another_deadline(ada: Client, scene: Scene) -> None:
    _offered, waits = scene.wait_in_line()
    where = reverse("waiting-deadline", args=[waits.pk])
    later = f"{(waits.deadline_at + timedelta(minutes=10)).astimezone(BERLIN):%Y-%m-%dT%H:%M}"
    assert "You keep your place" in ada.post(where, {"deadline": later}, follow=True).content.decode()
    far = f"{(waits.deadline_at + timedelta(days=2)).astimezone(BERLIN):%Y-%m-%dT%H:%M}"
    answer = ada.post(where, {"deadline": far, "back": reverse("waiting", args=[waits.pk])}, follow=True)
    assert "there is nothing to wait for" in answer.content.decode()


def test_an_offer_is_no_workstation(ada: Client, scene: Scene) -> None:
    offered, _waits = scene.wait_in_line()
    lease = Lease.objects.get(entry=offered)
    assert ada.get(reverse("workstation", args=[lease.pk])).status_code == 404
    assert str(lease.pk) not in ada.get(reverse("workstations")).content.decode()
    ids = {row["id"] for row in ada.get(reverse("api-leases")).json()["results"]}
    assert str(lease.pk) not in ids


def test_the_whole_of_it_over_the_api(ada: Client, scene: Scene) -> None:
    scene.wait_in_line()
    listed = ada.get(reverse("api-waitlist")).json()["results"]
    waits, offered = listed
    assert waits["outlook"]["position"] == 2
    assert waits["outlook"]["offer"] is None
    offer = offered["outlook"]["offer"]
    assert (offer["total"], offer["currency"], offer["approval_because"]) == ("11.40", "EUR", "")
    assert datetime.fromisoformat(offer["claim_until"]) > scene.now
    claimed = ada.post(reverse("api-waitlist-claim", args=[offered["id"]]), content_type=JSON)
    assert (claimed.status_code, claimed.json()["state"]) == (200, "scheduled")
    again = ada.post(reverse("api-waitlist-claim", args=[offered["id"]]), content_type=JSON)
    assert (again.status_code, again.json()["title"]) == (409, "Conflict")
    left = ada.delete(reverse("api-waitlist-entry", args=[waits["id"]]))
    assert (left.json()["outcome"], left.json()["outlook"]) == ("left", None)


def test_joining_over_the_api(ada: Client, scene: Scene) -> None:
    scene.wait_in_line()
    asked = {
        "tenant": "studio",
        "flavor": "studio",
        "image": "tenant",
        "duration_seconds": 3600,
        "earliest": (scene.now + timedelta(hours=100, minutes=10)).isoformat(),
        "deadline": (scene.now + timedelta(hours=102)).isoformat(),
    }
    answer = ada.post(reverse("api-waitlist"), asked, content_type=JSON)
    assert answer.status_code == 201
    assert answer.json()["outlook"]["position"] == 3
    entry = ada.get(answer.headers["Location"]).json()
    assert entry["id"] == answer.json()["id"]
    free = asked | {"deadline": (scene.now + timedelta(hours=140)).isoformat()}
    refused = ada.post(reverse("api-waitlist"), free, content_type=JSON)
    assert (refused.status_code, refused.json()["hint"]) == (400, "Book it.")
    Flavor.objects.filter(slug="studio").update(offered=False)
    assert ada.post(reverse("api-waitlist"), asked, content_type=JSON).status_code == 400
