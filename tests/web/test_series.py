"""Repeated bookings on the pages and over the API: previewed, booked whole or with gaps, decided, ended."""

from __future__ import annotations

import html
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.urls import reverse
from playwright.sync_api import expect

from hosts.models import Gpu
from leasing.actors import SYSTEM
from leasing.booking import request_lease
from leasing.models import Lease, Person, Series
from leasing.quotas import set_quota
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site
from tests.web.test_api import Api, problem_of

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]
BERLIN = ZoneInfo("Europe/Berlin")
DAY = timedelta(days=1)


def first_day() -> date:
    """Far enough from what the scene has booked."""
    return datetime.now(BERLIN).date() + 40 * DAY


def form(*, days: int = 5, hour: int = 9, hours: str = "2h", **changes: object) -> dict[str, Any]:
    """A booking repeated every day, as the page sends it."""
    starts_at = datetime.combine(first_day(), time(hour))
    return {
        "tenant": "studio",
        "flavor": "studio",
        "image": "tenant",
        "when": "at",
        "starts_at": f"{starts_at:%Y-%m-%dT%H:%M}",
        "length": hours,
        "ends_at": "",
        "weekdays": ["1", "2", "3", "4", "5", "6", "7"],
        "last_on": (first_day() + (days - 1) * DAY).isoformat(),
        "every_weeks": "1",
        "purpose": "Dailies",
        **changes,
    }


def occupy(scene: Scene, day: date) -> None:
    """Bob's team has every GPU that morning."""
    for _gpu in Gpu.objects.filter(model=scene.model, state__in=["clean", "leased", "dirty"]):
        starts_at = datetime.combine(day, time(8), BERLIN)
        request_lease(
            actor=scene.actor(scene.bob), tenant=scene.research, flavor=scene.flavor, image=scene.image,
            starts_at=starts_at, ends_at=starts_at + timedelta(hours=2), now=datetime.now(UTC),
        )  # fmt: skip


@pytest.fixture
def ada(scene: Scene, sign_in: SignIn) -> Client:
    return sign_in(scene.ada)


def price(client: Client, **changes: object) -> str:
    return re.sub(r"\s+", " ", client.get("/book/price/", form(**changes)).content.decode())  # type: ignore[arg-type]


def test_the_offer_shows_what_all_dates_do_to_each_limit(scene: Scene, ada: Client) -> None:
    limit: dict[str, Any] = {"tenant": scene.studio, "kind": "gpu-hours", "now": scene.now}
    set_quota(actor=SYSTEM, value=Decimal(1000), **limit)
    page = price(ada, days=3)
    assert 'data-measure="gpus"' in page
    asked = re.findall(r'data-measure="gpu-hours".*?<strong>(\d+)</strong>', page)
    assert sum(map(int, asked)) == 6, "of one month, or of two"
    set_quota(actor=SYSTEM, value=Decimal(1), **limit)
    first = re.search(r'<li class="tone-(\w+)" data-measure="([a-z-]+)"', price(ada, days=3))
    assert first
    assert first.groups() == ("red", "gpu-hours")


def newest() -> Series:
    return Series.objects.latest("requested_at")


def test_the_price_of_all_dates_is_there_before(ada: Client) -> None:
    page = price(ada)
    assert "€38.00" in page
    assert "5 workstations" in page
    assert "Every day 09:00–11:00 (Europe/Berlin)" in page
    assert "no approval needed" in page
    assert page.count("€7.60") == 5
    assert Series.objects.count() == 1, "the scene's own"


def test_booking_leads_to_the_series_and_each_workstation_to_it(ada: Client) -> None:
    answer = ada.post("/book/", form())
    series = newest()
    assert answer.headers["Location"] == reverse("series", args=[series.pk])
    page = ada.get(answer.headers["Location"]).content.decode()
    assert "Booked. Each date is a workstation of its own." in page
    leases = list(series.leases.all())
    assert all(reverse("workstation", args=[lease.pk]) in page for lease in leases)
    assert {lease.purpose for lease in leases} == {"Dailies"}
    shown = ada.get(reverse("workstation", args=[leases[0].pk])).content.decode()
    assert reverse("series", args=[series.pk]) in shown


def test_a_date_that_is_taken_is_named_with_what_is_free_then(ada: Client, scene: Scene) -> None:
    taken = first_day() + DAY
    occupy(scene, taken)
    page = price(ada)
    assert "1 date cannot be had" in page
    assert "Others have booked the GPUs then." in page
    assert "Free on that day:" in page
    assert "Book only the other 4" in page
    assert "bob" not in page
    (offer,) = set(re.findall(r'<a class="nowrap" href="([^"]+)"', page))
    query = parse_qs(urlsplit(html.unescape(offer)).query)
    assert query["starts_at"][0].startswith(taken.isoformat())
    assert "weekdays" not in query
    single = ada.get(html.unescape(offer)).content.decode()
    assert "not free then" not in single


def test_nothing_is_booked_unless_the_lost_dates_are_named(ada: Client, scene: Scene) -> None:
    occupy(scene, first_day() + DAY)
    refused = ada.post("/book/", form())
    page = refused.content.decode()
    assert refused.status_code == 400
    assert "Nothing was booked, because these dates cannot be had" in page
    named = re.findall(r'name="without" value="([^"]+)"', page)
    assert named == [(first_day() + DAY).isoformat()]
    occupy(scene, first_day() + 3 * DAY)
    again = ada.post("/book/", form(without=named[0]))
    assert again.status_code == 400
    assert Series.objects.count() == 1
    both = f"{named[0]},{(first_day() + 3 * DAY).isoformat()}"
    assert ada.post("/book/", form(without=both)).status_code == 302
    series = newest()
    assert series.leases.count() == 3
    assert "Left out" in ada.get(reverse("series", args=[series.pk])).content.decode()


BAD: dict[str, tuple[dict[str, object], str]] = {
    "no date": ({"last_on": ""}, "Say until which date it is repeated."),
    "no day": ({"weekdays": []}, "Choose the days on which it is repeated"),
    "no such day": ({"weekdays": ["8"]}, "Select a valid choice"),
    "a date before the first": ({"last_on": "2020-01-01"}, "The last date is before the first."),
    "too many": ({"days": 300}, "At most 260 bookings"),
    "too far": ({"days": 900, "weekdays": ["1"]}, "Nobody books more than two years ahead."),
    "longer than a day": ({"hours": "1w"}, "What is repeated lasts a day at most."),
    "no time between": ({"hours": "1d"}, "leave 7 minutes"),
    "the past": ({"starts_at": "2020-01-01T10:00"}, "The first date lies in the past."),
    "nonsense": ({"without": "tomorrow"}, "These are not dates."),
    "another week": ({"every_weeks": "9"}, "Select a valid choice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_the_form(ada: Client, case: str) -> None:
    changes, words = BAD[case]
    answer = ada.post("/book/", form(**changes))  # type: ignore[arg-type]
    assert answer.status_code == 400
    assert words in html.unescape(answer.content.decode())
    assert Series.objects.count() == 1


def test_home_shows_the_next_of_a_series_and_how_many_follow(ada: Client, scene: Scene) -> None:
    page = ada.get("/").content.decode()
    leases = list(scene.series.leases.order_by("starts_at"))
    shown = [f'data-lease="{lease.pk}"' in page for lease in leases]
    assert shown == [True, False, False]
    assert "and 2 more of its series" in page


def test_everything_ahead_is_cancelled_at_once_after_its_consequences(ada: Client, scene: Scene) -> None:
    address = reverse("series-cancel", args=[scene.series.pk])
    page = ada.get(address).content.decode()
    assert "Cancel the 3 workstations that are still ahead?" in page
    after = ada.post(address, follow=True).content.decode()
    assert "3 workstations are cancelled. Nothing is billed." in after
    assert set(scene.series.leases.values_list("outcome", flat=True)) == {"cancelled"}
    assert ada.get(address).status_code == 409


@pytest.fixture
def asked(scene: Scene) -> Series:
    """A series that waits for an approver."""
    scene.studio.concurrent_gpus = 0
    scene.studio.save()
    return scene.repeat(scene.ada, days=4, begin=31, purpose="Night renders")


def test_an_approver_sees_one_request_and_decides_once(scene: Scene, asked: Series, sign_in: SignIn) -> None:
    client = sign_in(scene.approver)
    assert "2 requests wait for your decision." in client.get("/").content.decode()
    page = client.get("/approvals/").content.decode()
    assert page.count(f'data-series="{asked.pk}"') == 1
    assert "Ada Lindqvist asks for Studio A6000 on 4 dates" in page
    assert "€30.40" in page
    assert "Night renders" in page
    address = reverse("decide-series", args=[asked.pk])
    client.post(address, {"decision": "reject", "note": " "})
    client.post(address, {"decision": "both"})
    client.post(address, {"decision": "approve", "note": "x" * 501})
    assert set(asked.leases.values_list("state", flat=True)) == {"requested"}
    answer = client.post(address, {"decision": "approve", "note": "Fine.", "back": "/approvals/"})
    assert answer.headers["Location"] == "/approvals/"
    assert set(asked.leases.values_list("state", flat=True)) == {"scheduled"}


def test_the_series_page_lets_an_approver_decide(scene: Scene, asked: Series, sign_in: SignIn) -> None:
    address = reverse("series", args=[asked.pk])
    assert "Approve all" not in sign_in(scene.ada).get(address).content.decode()
    client = sign_in(scene.approver)
    page = client.get(address).content.decode()
    assert "Approve all" in page
    client.post(
        reverse("decide-series", args=[asked.pk]), {"decision": "reject", "note": "No.", "back": address}
    )
    assert "not approved" in client.get(address).content.decode()


PATTERN = {
    "flavor": "studio",
    "weekdays": [1, 2, 3, 4, 5, 6, 7],
    "starts": "09:00",
    "ends": "11:00",
    "zone": "Europe/Berlin",
}


def pattern(**changes: object) -> dict[str, object]:
    dates = {"first_on": str(first_day()), "last_on": str(first_day() + 4 * DAY)}
    return {**PATTERN, **dates, **changes}


def test_the_same_over_the_api(scene: Scene) -> None:
    ada = Api(scene.ada)
    taken = first_day() + 2 * DAY
    occupy(scene, taken)
    plan = ada.post("series/preview/", pattern()).json()
    assert (plan["lost"], plan["approval_because"]) == ([str(taken)], "")
    assert plan["totals"] == [{"currency": "EUR", "total": "30.40"}]
    measures = {one["kind"]: (one["there"], one["asked"], one["limit"]) for one in plan["measures"]}
    assert measures["gpus"] == ("0.00", "1.00", "4.00")
    gone = plan["occurrences"][2]
    assert not gone["booked"]
    assert "booked-by-others" in {obstacle["code"] for obstacle in gone["obstacles"]}
    assert gone["instead"][-1]["total"] == "7.60"
    told = problem_of(ada.post("series/", pattern(image="tenant")))
    assert (told["status"], told["type"]) == (409, "urn:leasehold:problem:dates-lost")
    assert told["errors"] == [{"field": "without", "detail": str(taken)}]
    made = ada.post("series/", pattern(image="tenant", without=[str(taken)]))
    assert made.status_code == 201
    series = made.json()
    assert made.headers["Location"] == f"/api/v1/series/{series['id']}/"
    assert (len(series["leases"]), series["left_out"], series["starts"]) == (4, [str(taken)], "09:00")
    assert {lease["series"] for lease in series["leases"]} == {series["id"]}
    assert ada.get("series/").json()["results"][0]["id"] == series["id"]
    cancelled = ada.post(f"series/{series['id']}/cancel/").json()
    assert {lease["outcome"] for lease in cancelled["leases"]} == {"cancelled"}
    assert problem_of(ada.post(f"series/{series['id']}/cancel/"))["status"] == 409


def test_an_approver_decides_over_the_api(scene: Scene, asked: Series) -> None:
    approver = Api(scene.approver)
    path = f"series/{asked.pk}/"
    assert problem_of(approver.post(f"{path}reject/", {"note": ""}))["status"] == 400
    shown = approver.post(f"{path}approve/", {"note": "Fine."}).json()
    assert {lease["state"] for lease in shown["leases"]} == {"scheduled"}


BAD_PATTERNS: dict[str, tuple[dict[str, object], str]] = {
    "no days": ({"weekdays": []}, "weekdays"),
    "a day that is none": ({"weekdays": [0]}, "weekdays.0"),
    "a time with seconds": ({"starts": "09:00:30"}, "starts"),
    "a time that is none": ({"ends": "24:00"}, "ends"),
    "a zone that is none": ({"zone": "Mars/Olympus"}, "zone"),
    "a date that is none": ({"last_on": "2027-02-30"}, "last_on"),
    "a stranger's date": ({"without": ["2031-01-01"]}, "without"),
    "too seldom": ({"every_weeks": 27}, "every_weeks"),
    "another team": ({"tenant": "research"}, "tenant"),
    "unknown flavor": ({"flavor": "none"}, "flavor"),
    "misspelt": ({"weekday": [1]}, "weekday"),
}


@pytest.mark.parametrize("case", BAD_PATTERNS)
def test_bad_patterns_name_the_field(scene: Scene, case: str) -> None:
    changes, field = BAD_PATTERNS[case]
    ada = Api(scene.ada)
    for path, more in (("series/preview/", {}), ("series/", {"image": "tenant"})):
        told = problem_of(ada.post(path, pattern(**more, **changes)))
        assert told["status"] == 400
        assert field in {fault["field"] for fault in told["errors"]}
    assert Series.objects.count() == 1


def test_in_a_browser_the_preview_follows_and_the_gap_is_one_click(visits: Visits, site: Site) -> None:
    taken = first_day() + DAY
    site.do(lambda scene: occupy(scene, taken))
    page = visits.page(site.scene.ada)
    page.goto("/book/")
    page.get_by_role("radio", name="2 hours").check()
    page.locator('input[name="starts_at"]').fill(f"{first_day()}T09:00")
    for number in range(1, 8):
        page.locator(f'input[name="weekdays"][value="{number}"]').check()
    page.get_by_label("until", exact=True).last.fill(str(first_day() + 4 * DAY))
    expect(page.locator("#price")).to_contain_text("€30.40")
    expect(page.locator("#price")).to_contain_text("1 date cannot be had")
    page.get_by_role("button", name="Book only the other 4").click()
    expect(page.get_by_role("status").filter(has_text="Booked.")).to_be_visible()
    expect(page.locator("tr[data-lease]")).to_have_count(4)
    assert site.do(lambda _scene: Lease.objects.filter(series__isnull=False).count()) == 3 + 4


def test_it_works_without_javascript(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada, javascript=False)
    page.goto("/book/")
    page.locator('input[name="length"][value="2h"]').check(force=True)
    page.locator('input[name="when"][value="at"]').check(force=True)
    page.locator('input[name="starts_at"]').fill(f"{first_day()}T09:00")
    for number in range(1, 8):
        page.locator(f'input[name="weekdays"][value="{number}"]').check(force=True)
    page.locator('input[name="last_on"]').fill(str(first_day() + 2 * DAY))
    page.get_by_role("button", name="Show the price").click()
    expect(page.locator("#price")).to_contain_text("€22.80")
    page.get_by_role("button", name="Book it").click()
    expect(page.locator("tr[data-lease]")).to_have_count(3)


def test_nobody_else_learns_of_it(scene: Scene, sign_in: SignIn) -> None:
    others: list[Person] = [scene.bob, scene.finance, scene.operator, scene.stranger]
    for who in others:
        assert Api(who).get("series/").json()["results"] == []
        assert sign_in(who).get(reverse("series", args=[scene.series.pk])).status_code == 404
