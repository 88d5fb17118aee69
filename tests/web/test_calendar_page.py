"""The calendar page: windows in the reader's zone, blocks that lead somewhere, and the same as a table."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.urls import reverse
from playwright.sync_api import expect

from hosts.models import Host
from leasing.models import Closure, Flavor, Hold, Lease, Person
from leasing.openings.upkeep import rebuild
from portal.pages.calendar_chart import book_address
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)


@pytest.fixture
def ada(scene: Scene, sign_in: SignIn) -> Client:
    return sign_in(scene.ada)


def page_of(client: Client, **query: str) -> str:
    answer = client.get("/calendar/", {"model": "a6000", **query})
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", html.unescape(answer.content.decode()))


def books(page: str) -> list[dict[str, list[str]]]:
    return [parse_qs(urlsplit(address).query) for address in re.findall(r'href="(/book/[^"]*)"', page)]


def test_own_leases_are_links_and_others_are_not(ada: Client, scene: Scene) -> None:
    page = page_of(ada, view="day")
    assert f'href="/workstations/{scene.active.pk}/"' in page
    assert str(scene.theirs.pk) not in page
    assert scene.theirs.machine_name not in page
    assert scene.host.row.name not in page
    assert "Server 1" in page
    assert "in use" in page
    assert "out of service" in page


def test_the_table_says_what_the_picture_draws(ada: Client, scene: Scene) -> None:
    page = page_of(ada, view="week")
    table = '<details class="cal-table">'
    drawn, told = page.split(table, 1)[0], re.findall(f"{table}.*?</details>", page)
    assert drawn.count('class="cal-field"') == told[0].count("<tr>") - 1 == 28
    links = set(re.findall(r"/workstations/[0-9a-f-]+/", page))
    assert links
    assert links == {link for table in told for link in re.findall(r"/workstations/[0-9a-f-]+/", table)}


def test_free_stretches_lead_to_the_book_page_with_the_window_filled_in(ada: Client, scene: Scene) -> None:
    Hold.objects.all().delete()
    begins = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + 30 * HOUR
    for starts_at, ends_at in ((begins - 20 * HOUR, begins), (begins + 5 * HOUR, None)):
        Closure.objects.create(
            host=scene.host.row, starts_at=starts_at, ends_at=ends_at, created_at=scene.now
        )
    rebuild(scene.host.row.pk)
    page = page_of(ada, view="month", day=f"{begins.astimezone(BERLIN):%F}")
    model, local = scene.model, "%Y-%m-%dT%H:%M"
    wanted = {
        "flavor": ["studio"],
        "when": ["at"],
        "starts_at": [(begins + timedelta(seconds=model.lead_seconds)).astimezone(BERLIN).strftime(local)],
        "length": ["until"],
        "ends_at": [
            (begins + 5 * HOUR - timedelta(seconds=model.turnaround_seconds))
            .astimezone(BERLIN)
            .strftime(local)
        ],
    }
    assert wanted in books(page)
    filled = ada.get("/book/", {name: value[0] for name, value in wanted.items()}).content.decode()
    assert "no approval needed" in filled


def test_a_window_that_the_clocks_show_twice_is_not_asked_for(scene: Scene) -> None:
    def at(hour: int, minute: int = 0) -> datetime:
        return datetime(2026, 10, 24 if hour > 12 else 25, hour, minute, tzinfo=UTC)

    now = datetime(2026, 10, 1, tzinfo=UTC)

    def address(starts_at: datetime, ends_at: datetime) -> dict[str, list[str]]:
        found = book_address(scene.flavor, starts_at, ends_at, zone=BERLIN, now=now)
        return parse_qs(urlsplit(found).query)

    # In Berlin, 02:00 to 03:00 is shown twice that night: from 00:00 and from 01:00 UTC.
    assert address(at(0, 30), at(6))["starts_at"] == ["2026-10-25T03:00"]
    assert address(at(20), at(0, 30))["ends_at"] == ["2026-10-25T01:59"]
    assert address(at(0, 10), at(1, 50)) == {}


def test_a_long_stretch_is_not_proposed_as_one_lease(scene: Scene) -> None:
    now = datetime.now(UTC)
    found = parse_qs(urlsplit(book_address(scene.flavor, now, now + 99 * HOUR, zone=BERLIN, now=now)).query)
    assert found == {"flavor": ["studio"], "when": ["now"]}


@pytest.mark.parametrize(("day", "hours"), [("2027-03-28", 23), ("2027-10-31", 25), ("2027-06-01", 24)])
def test_a_day_is_drawn_with_its_hours(ada: Client, day: str, hours: int) -> None:
    page = page_of(ada, view="day", day=day)
    assert page.count('class="cal-field"') == hours
    width = float(re.findall(r'class="cal-field" x="[^"]*" width="([0-9.]+)%"', page)[0])
    assert width == pytest.approx(100 / hours, abs=0.001)


def test_the_links_lead_to_the_windows_beside(ada: Client) -> None:
    page = page_of(ada, view="two-weeks", day="2027-03-04")
    assert "1 March – 14 March 2027" in page
    assert "day=2027-02-15" in page
    assert "day=2027-03-15" in page
    assert "March 2027" in page_of(ada, view="month", day="2027-03-04")
    assert "Thursday, 4 March 2027" in page_of(ada, view="day", day="2027-03-04")


@pytest.mark.parametrize(
    "query", [{"day": "2027-02-30"}, {"day": "0001-01-01"}, {"day": "tomorrow"}, {"view": "century"}]
)
def test_an_odd_address_is_answered_in_words(ada: Client, query: dict[str, str]) -> None:
    answer = ada.get("/calendar/", query)
    assert answer.status_code == 400
    assert 'class="fault"' in answer.content.decode()


def test_a_day_that_the_zone_skipped(ada: Client, scene: Scene) -> None:
    Person.objects.filter(pk=scene.ada.pk).update(timezone="Pacific/Apia")
    answer = ada.get("/calendar/", {"view": "day", "day": "2011-12-30"})
    assert answer.status_code == 400
    assert "the calendar skipped it" in answer.content.decode()


def test_odd_pages_and_models(ada: Client) -> None:
    for number in ("0", "-1", "99", "none", "9" * 40):
        assert ada.get("/calendar/", {"page": number}).status_code == 200
    assert ada.get("/calendar/", {"model": "none"}).status_code == 404
    assert ada.get("/calendar/", {"model": "h100"}).status_code == 200
    assert ada.get("/calendar/", {"flavor": "train", "model": "a6000"}).status_code == 400


def test_hosts_come_in_pages_with_ones_own_first(ada: Client, scene: Scene) -> None:
    gpu = scene.quarantined
    for number in range(6):
        key = f"a{number}"
        host = Host.objects.create(
            name=f"a{number}",
            account=f"a{number}",
            signing_key=key * 32,
            key_id=key * 8,
            sealing_key=key * 32,
        )
        gpu.pk, gpu.host, gpu._state.adding = None, host, True
        gpu.pk = type(gpu)._meta.pk.get_default()
        gpu.save()
        rebuild(host.pk)
    assert 'data-host="7"' in page_of(ada)
    assert page_of(ada).count("data-host=") == 5
    assert page_of(ada, page="2").count("data-host=") == 2
    bob = page_of(ada, page="2", day="2027-03-04")
    assert re.findall(r'data-host="(\d)"', bob) == ["6", "7"]


def test_who_cannot_book_is_led_nowhere(scene: Scene, sign_in: SignIn) -> None:
    assert books(page_of(sign_in(scene.ada)))
    assert not books(page_of(sign_in(scene.finance)))
    assert scene.host.row.name in page_of(sign_in(scene.operator))


def test_when_nothing_is_on_offer_the_page_says_so(ada: Client, scene: Scene) -> None:
    Flavor.objects.update(offered=False)
    assert "Nothing is offered yet" in ada.get("/calendar/").content.decode()


def test_it_speaks_chinese(ada: Client, scene: Scene) -> None:
    Person.objects.filter(pk=scene.ada.pk).update(language="zh-hans")
    assert "日历" in page_of(ada)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("javascript", [True, False])
def test_it_is_walked_through_by_keyboard(visits: Visits, site: Site, javascript: bool) -> None:
    page = visits.page(site.scene.ada, javascript=javascript)
    page.goto("/calendar/?view=week&day=2027-03-04")
    expect(page.get_by_role("heading", level=1)).to_have_text("1 March – 7 March 2027")
    if javascript:
        page.keyboard.press("ArrowRight")
    else:
        page.get_by_role("link", name="Later").focus()
        page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("8 March – 14 March 2027")
    assert "day=2027-03-08" in page.url
    page.get_by_role("link", name="Today").press("Enter")
    lease = page.locator(f'svg a[href="{reverse("workstation", args=[site.scene.active.pk])}"]')
    lease.focus()
    expect(lease).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/workstations/{site.scene.active.pk}/")
    assert site.do(lambda _scene: Lease.objects.count())
