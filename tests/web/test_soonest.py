"""As soon as possible: the first time that is free, the next ones, and until when it could be kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.test import Client
from django.urls import reverse
from lxml import html
from playwright.sync_api import expect

from leasing.models import Lease, WaitlistEntry
from leasing.slots import find_slots
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.keyboard import Keyboard
from tests.web.scenes import Scene
from tests.web.site import Site
from tests.web.test_booking_page import BERLIN, GOOD
from tests.web.test_timeline import LOCAL, from_nine_and_from_twelve, leave_free, tomorrow

pytestmark = pytest.mark.django_db
SOON = GOOD | {"when": "soon"}
SECONDS = timedelta(seconds=17)


@pytest.fixture
def ada(scene: Scene, sign_in: SignIn) -> Client:
    """Tomorrow one GPU is free from nine and a few seconds to three, another from noon to eight."""
    late = tomorrow(9) + SECONDS
    leave_free(scene, (late, tomorrow(15)), (tomorrow(12), tomorrow(20)))
    return sign_in(scene.ada)


def price(client: Client, **more: Any) -> Any:
    return html.fromstring(client.get(reverse("book-price"), SOON | more).content.decode())


def text(page: Any) -> str:
    return " ".join(page.text_content().split())


def slot(page: Any) -> str:
    (found,) = page.xpath("//input[@name='slot']/@value")
    return str(found)


def start(page: Any) -> datetime:
    return datetime.fromisoformat(slot(page).partition(" ")[0])


def eve_of_a_change() -> datetime:
    """Noon of the next day after which the clocks of Berlin are changed."""
    noon = tomorrow(12).astimezone(BERLIN)
    while noon.utcoffset() == (noon + timedelta(days=1)).utcoffset():
        noon += timedelta(days=1)
    return noon


def proposals(page: Any) -> list[tuple[str, dict[str, str]]]:
    """What each says, with its price, and what its address fills in."""
    listed = page.xpath("//dl[contains(@class, 'proposals')]/dd")
    return [(text(one), dict(parse_qsl(urlsplit(one.xpath("./a/@href")[0]).query))) for one in listed]


def test_the_first_time_and_the_next_ones_are_told_with_the_price_of_each(ada: Client, scene: Scene) -> None:
    page, now = price(ada), datetime.now(UTC)
    slots = find_slots(scene.flavor, timedelta(hours=2), count=4, tenant=scene.studio, now=now)
    assert start(page) == slots[0].starts_at
    assert "09:00 – " in text(page)
    assert "€7.60" in text(page)
    said = proposals(page)
    assert len(said) == len(slots) - 1 == 3
    for (words, filled), other in zip(said, slots[1:], strict=True):
        assert f"{other.starts_at.astimezone(BERLIN):%H:%M}" in words
        assert words.endswith("€7.60")
        rounded = other.starts_at.astimezone(BERLIN) + timedelta(minutes=1) - timedelta.resolution
        assert (filled["when"], filled["starts_at"]) == ("at", rounded.strftime(LOCAL))
    assert "not free then" not in ada.get(reverse("book"), said[0][1]).content.decode()


def test_what_was_shown_is_booked_to_the_second(ada: Client) -> None:
    answer = ada.post(reverse("book"), SOON | {"slot": slot(price(ada))})
    lease = Lease.objects.latest("requested_at")
    assert answer.headers["Location"] == reverse("workstation", args=[lease.pk])
    assert (lease.starts_at, lease.ends_at) == (tomorrow(9) + SECONDS, tomorrow(11) + SECONDS)


def test_what_is_free_at_once_is_booked_from_now_until_the_end_that_was_shown(
    scene: Scene, sign_in: SignIn
) -> None:
    ada = sign_in(scene.ada)
    page = price(ada)
    shown = start(page)
    ada.post(reverse("book"), SOON | {"slot": slot(page)})
    lease = Lease.objects.latest("requested_at")
    assert shown < lease.starts_at < shown + timedelta(minutes=1)
    assert lease.ends_at == shown + timedelta(hours=2)


def test_it_begins_no_earlier_and_has_ended_by_the_times_that_are_given(ada: Client) -> None:
    earliest, by = tomorrow(11).strftime(LOCAL), tomorrow(16).strftime(LOCAL)
    page = price(ada, earliest=earliest, ends_by=by)
    assert start(page) == tomorrow(11)
    assert [filled["starts_at"] for _words, filled in proposals(page)] == [tomorrow(13).strftime(LOCAL)]


def test_nothing_by_the_deadline_is_no_dead_end(ada: Client) -> None:
    by = tomorrow(11).strftime(LOCAL)
    page = price(ada, ends_by=by)
    assert "nothing is free that ends by" in text(page)
    assert not page.xpath("//input[@name='slot']")
    assert page.xpath("//input[@name='deadline']/@value") == [by]
    assert proposals(page)[0][1]["starts_at"] == f"{tomorrow(9):%Y-%m-%dT%H:01}"
    joined = ada.post(reverse("join-waitlist"), SOON | {"ends_by": by, "deadline": by})
    entry = WaitlistEntry.objects.latest("joined_at")
    assert joined.headers["Location"] == reverse("waiting", args=[entry.pk])
    assert (entry.duration, entry.deadline_at) == (timedelta(hours=2), tomorrow(11))


def test_nothing_at_all_says_so(scene: Scene, sign_in: SignIn) -> None:
    leave_free(scene)
    page = text(price(sign_in(scene.ada)))
    assert "nothing is free" in page
    assert "ends by" not in page


def test_a_shorter_one_that_ends_by_the_deadline_is_proposed_and_can_be_taken(
    ada: Client, scene: Scene
) -> None:
    given = {"earliest": tomorrow(18).strftime(LOCAL), "length": "8h"}
    ((words, filled),) = proposals(price(ada, **given))
    assert "€7.60" in words
    assert (filled["when"], filled["length"]) == ("at", "until")
    ada.post(reverse("book"), GOOD | filled)
    lease = Lease.objects.latest("requested_at")
    assert (lease.starts_at, lease.ends_at) == (tomorrow(18), tomorrow(20))


UNSEEN: dict[str, Callable[[str], dict[str, str]]] = {
    "nothing was shown": lambda _shown: {"slot": ""},
    "it would end after the deadline": lambda _shown: {"ends_by": tomorrow(10).strftime(LOCAL)},
    "it begins too early": lambda _shown: {"earliest": tomorrow(10).strftime(LOCAL)},
    "it was shown for another length": lambda _shown: {"length": "1h"},
    "it was shown for another workstation": lambda _shown: {"flavor": "train"},
    "it was shown long ago": lambda shown: {
        "slot": f"{(datetime.now(UTC) - timedelta(minutes=6)).isoformat()} {shown.partition(' ')[2]}"
    },
}


@pytest.mark.parametrize("case", UNSEEN)
def test_nothing_is_booked_that_was_not_shown_for_what_is_asked(ada: Client, case: str) -> None:
    before, shown = Lease.objects.count(), slot(price(ada))
    answer = ada.post(reverse("book"), SOON | {"slot": shown} | UNSEEN[case](shown))
    assert answer.status_code == 400
    assert "See first which time was found for it." in answer.content.decode()
    assert Lease.objects.count() == before


def test_a_day_is_as_long_as_any_other_when_the_clocks_are_changed(scene: Scene, sign_in: SignIn) -> None:
    ada, noon, day = sign_in(scene.ada), eve_of_a_change(), timedelta(days=1)
    ends_at = noon.astimezone(UTC) + day
    wanted = {"length": "1d", "earliest": noon.strftime(LOCAL)}
    page = price(ada, **wanted)
    assert f"{ends_at.astimezone(BERLIN):%H:%M}" in text(page)
    ada.post(reverse("book"), SOON | wanted | {"slot": slot(page)})
    lease = Lease.objects.latest("requested_at")
    assert (lease.starts_at, lease.ends_at) == (noon, ends_at)
    ada.post(reverse("book"), GOOD | {"when": "at", "starts_at": noon.strftime(LOCAL), "length": "1d"})
    other = Lease.objects.latest("requested_at")
    assert (other.pk != lease.pk, other.starts_at, other.ends_at) == (True, noon, ends_at)


@pytest.mark.parametrize("slot", ["garbage", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+14:00", ""])
def test_a_slot_that_no_page_has_shown_is_answered_in_the_form(ada: Client, slot: str) -> None:
    assert ada.get(reverse("book-price"), SOON | {"slot": slot}).status_code == 200
    assert ada.post(reverse("book"), SOON | {"slot": slot}).status_code == 400


def test_what_was_taken_meanwhile_gives_way_to_the_next_time(ada: Client, scene: Scene) -> None:
    shown = slot(price(ada))
    leave_free(scene, (tomorrow(12), tomorrow(20)))
    answer = ada.post(reverse("book"), SOON | {"slot": shown})
    page = html.fromstring(answer.content.decode())
    assert answer.status_code == 400
    assert start(page) == tomorrow(12)
    assert ada.post(reverse("book"), SOON | {"slot": slot(page)}).status_code == 302


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"length": "until", "ends_at": "2027-03-01T10:00"}, "Choose how long you need it"),
        ({"weekdays": ["1"], "last_on": "2027-03-01"}, "Say from when, for what is repeated."),
        ({"ends_by": "soon"}, "This is not a date and time"),
    ],
)
def test_what_makes_no_sense_together_is_told(ada: Client, more: dict[str, Any], words: str) -> None:
    assert words in text(price(ada, **more))
    assert words in ada.post(reverse("book"), SOON | more).content.decode()


def longest(page: Any) -> dict[str, str]:
    (address,) = page.xpath("//a[normalize-space()='Until then']/@href")
    return dict(parse_qsl(urlsplit(address).query))


def test_until_when_it_could_be_kept_is_told_and_taken(ada: Client) -> None:
    at = {"when": "at", "starts_at": tomorrow(10).strftime(LOCAL)}
    asked = price(ada, **at).xpath("//a[contains(., 'Until when')]/@href")[0]
    page = html.fromstring(ada.get(asked).content.decode())
    assert re.search(r"Free until \w+ 15:00 at most", text(page))
    taken = longest(page)
    assert "€19.00" in ada.get(reverse("book"), taken).content.decode()
    ada.post(reverse("book"), GOOD | taken)
    lease = Lease.objects.latest("requested_at")
    assert (lease.starts_at, lease.ends_at) == (tomorrow(10), tomorrow(15))


def test_of_the_first_time_too_the_latest_end_is_told(ada: Client) -> None:
    taken = longest(price(ada, longest="1", earliest=tomorrow(13).strftime(LOCAL)))
    window = [taken[name] for name in ("when", "starts_at", "length", "ends_at")]
    assert window == ["at", tomorrow(13).strftime(LOCAL), "until", tomorrow(20).strftime(LOCAL)]


def test_what_is_as_long_as_can_be_needs_no_link(ada: Client, scene: Scene) -> None:
    whole = {"when": "at", "starts_at": tomorrow(12).strftime(LOCAL), "length": "8h", "longest": "1"}
    page = price(ada, **whole)
    assert re.search(r"Free until \w+ 20:00 at most", text(page))
    assert not page.xpath("//a[normalize-space()='Until then']")
    leave_free(scene, (scene.now - timedelta(hours=1), scene.now + timedelta(days=400)))
    assert "Free for as long as a workstation may last" in text(price(ada, longest="1"))


def test_by_keys_alone_the_first_time_by_a_deadline_is_found_kept_longer_and_booked(
    visits: Visits, site: Site
) -> None:
    site.do(from_nine_and_from_twelve)
    page = visits.page(site.scene.ada)
    page.goto(reverse("book"))
    deadline = page.get_by_label("Must have ended by (if you like)")
    expect(deadline).to_be_hidden()
    keyboard = Keyboard(page)
    keyboard.use(page.get_by_label("now", exact=True), "ArrowRight")
    expect(deadline).to_be_visible()
    expect(page.get_by_label("From", exact=True)).to_be_hidden()
    deadline.fill(tomorrow(10).strftime(LOCAL))
    expect(page.locator("#price")).to_contain_text("nothing is free that ends by")
    deadline.fill(tomorrow(14).strftime(LOCAL))
    expect(page.locator("#price")).to_contain_text("09:00 – ")
    keyboard.use(page.get_by_role("link", name="Until when could I keep it?"))
    expect(page.locator("#longest")).to_contain_text("15:00 at most.")
    expect(page.locator("#longest")).to_be_focused()
    keyboard.follow(page.get_by_role("link", name="Until then"))
    expect(page.locator("#price")).to_contain_text("€22.80")
    keyboard.use(page.get_by_role("button", name="Book it"), "Enter")
    page.wait_for_url("**/workstations/**")
    lease = site.do(lambda _scene: Lease.objects.latest("requested_at"))
    assert (lease.starts_at, lease.ends_at) == (tomorrow(9), tomorrow(15))


def test_without_a_script_the_first_time_is_shown_and_booked(visits: Visits, site: Site) -> None:
    site.do(from_nine_and_from_twelve)
    page = visits.page(site.scene.ada, javascript=False)
    page.goto(reverse("book"))
    page.get_by_label("as soon as possible").check(force=True)
    page.get_by_role("button", name="Book it").click()
    expect(page.get_by_text("See first which time was found for it.")).to_be_visible()
    page.get_by_role("button", name="Book it").click()
    page.wait_for_url("**/workstations/**")
    lease = site.do(lambda _scene: Lease.objects.latest("requested_at"))
    assert lease.starts_at == tomorrow(9)
