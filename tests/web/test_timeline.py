"""Choosing a window on the book page's timeline: by dragging, by a click, by keys, and without a script."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from playwright.sync_api import Locator, Page, expect

from hosts.models import Gpu
from leasing.models import Closure, Hold, Lease
from leasing.openings.upkeep import rebuild
from leasing.states.gpu import BOOKABLE
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site

BERLIN = ZoneInfo("Europe/Berlin")
pytestmark = pytest.mark.django_db
LOCAL = "%Y-%m-%dT%H:%M"
DAY = timedelta(days=1)


def tomorrow(hour: int) -> datetime:
    day = datetime.now(BERLIN).date() + DAY
    return datetime(day.year, day.month, day.day, hour, tzinfo=BERLIN)


def leave_free(scene: Scene, *windows: tuple[datetime, datetime]) -> None:
    """One GPU after the other is free in its window only, and has neither lead nor turnaround."""
    Hold.objects.all().delete()
    Closure.objects.all().delete()
    scene.model.lead_seconds = scene.model.turnaround_seconds = 0
    scene.model.save()
    gpus = sorted(
        Gpu.objects.filter(model=scene.model), key=lambda gpu: (gpu.state not in BOOKABLE, gpu.address)
    )
    for gpu, window in zip(gpus, [*windows, *[None] * len(gpus)], strict=False):
        taken = [(scene.now - DAY, window[0]), (window[1], None)] if window else [(scene.now - DAY, None)]
        for starts_at, ends_at in taken:
            Closure.objects.create(
                host=gpu.host, gpu=gpu, starts_at=starts_at, ends_at=ends_at, created_at=scene.now
            )
    rebuild(scene.host.row.pk)


def from_nine_and_from_twelve(scene: Scene) -> None:
    leave_free(scene, (tomorrow(9), tomorrow(15)), (tomorrow(12), tomorrow(20)))


def opened(visits: Visits, site: Site) -> Page:
    site.do(from_nine_and_from_twelve)
    page = visits.page(site.do(lambda scene: scene.ada))
    page.goto("/book/?flavor=studio")
    page.get_by_text("Pick a time from a timeline").click()
    expect(page.locator(".picker-track")).to_have_count(7)
    return page


def place(page: Page, hour: float) -> tuple[float, float]:
    """Where this hour of tomorrow is on the screen. Asked at once: the timeline may just be fetched anew."""
    left, width, middle = page.evaluate(
        """() => {
            const track = document.querySelectorAll(".picker-track")[1];
            track.scrollIntoView({ block: "nearest", behavior: "instant" });
            const box = track.getBoundingClientRect();
            return [box.left, box.width, box.top + box.height / 2];
        }"""
    )
    return left + width * hour / 24, middle


def drag(page: Page, *hours: float) -> None:
    page.mouse.move(*place(page, hours[0]))
    page.mouse.down()
    for hour in hours[1:]:
        page.mouse.move(*place(page, hour))
    page.mouse.up()


def chosen(page: Page, begins: datetime, ends: datetime) -> None:
    expect(page.locator("[name=starts_at]")).to_have_value(begins.strftime(LOCAL))
    expect(page.locator("[name=ends_at]")).to_have_value(ends.strftime(LOCAL))


def half_past(hour: int) -> datetime:
    return tomorrow(hour) + timedelta(minutes=30)


def test_a_stretch_that_is_dragged_is_chosen_priced_and_booked(visits: Visits, site: Site) -> None:
    page = opened(visits, site)
    drag(page, 10, 11, 13.5)
    chosen(page, tomorrow(10), half_past(13))
    expect(page.locator("#price")).to_contain_text("10:00 – ")
    expect(page.locator("#price")).to_contain_text("€13.30")
    expect(page.locator(".picker").locator("[name=days]")).to_have_count(1)
    page.get_by_role("button", name="Book it").click()
    page.wait_for_url("**/workstations/*/")
    lease = site.do(lambda _: Lease.objects.latest("requested_at"))
    assert (lease.starts_at, lease.ends_at) == (tomorrow(10), half_past(13))


def test_what_is_fetched_anew_is_whole_at_once(visits: Visits, site: Site) -> None:
    """Not first with the class names that were there before, by which nobody finds it in the meantime."""
    page = opened(visits, site)
    page.evaluate(
        """() => {
            window.unsettled = [];
            const count = () => unsettled.push(document.querySelectorAll(".htmx-settling").length);
            document.body.addEventListener("htmx:afterSwap", () => queueMicrotask(count));
        }"""
    )
    drag(page, 10, 12)
    chosen(page, tomorrow(10), tomorrow(12))
    page.wait_for_function("() => unsettled.length > 0")
    assert set(page.evaluate("() => unsettled")) == {0}


def test_no_more_is_chosen_than_one_workstation_can_give(visits: Visits, site: Site) -> None:
    """Something is free from 9 to 20, but nothing throughout."""
    page = opened(visits, site)
    drag(page, 10, 18)
    chosen(page, tomorrow(10), tomorrow(15))
    drag(page, 18, 11, 10)
    chosen(page, tomorrow(12), tomorrow(18))
    drag(page, 14, 23)
    chosen(page, tomorrow(14), tomorrow(20))
    drag(page, 7, 8)
    chosen(page, tomorrow(14), tomorrow(20))


def test_a_click_moves_what_is_chosen_and_keeps_its_length(visits: Visits, site: Site) -> None:
    page = opened(visits, site)
    drag(page, 10, 12)
    page.mouse.click(*place(page, 16))
    chosen(page, tomorrow(16), tomorrow(18))
    page.mouse.click(*place(page, 19))
    chosen(page, tomorrow(19), tomorrow(20))


def test_arrow_keys_do_the_same(visits: Visits, site: Site) -> None:
    page = opened(visits, site)
    free: Locator = page.locator(".picker-track").nth(1).locator("a")
    free.focus()
    page.keyboard.press("Enter")
    chosen(page, tomorrow(9), tomorrow(13))
    expect(page.locator("#price")).to_contain_text("9:00 – ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    chosen(page, half_past(9), half_past(13))
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    chosen(page, half_past(9), tomorrow(13))


def test_another_workstation_has_another_timeline(visits: Visits, site: Site) -> None:
    page = opened(visits, site)
    expect(page.locator(".picker strong")).to_have_text("Studio A6000")
    page.locator("[name=flavor][value=train]").check()
    expect(page.locator(".picker strong")).not_to_have_text("Studio A6000")


@pytest.fixture
def ada(scene: Scene, sign_in: SignIn) -> Client:
    from_nine_and_from_twelve(scene)
    return sign_in(scene.ada)


def test_without_a_script_links_lead_to_the_start(visits: Visits, site: Site) -> None:
    site.do(from_nine_and_from_twelve)
    page = visits.page(site.do(lambda scene: scene.ada), javascript=False)
    page.goto("/book/?flavor=studio&length=2h")
    page.get_by_text("Pick a time from a timeline").click()
    page.locator(".picker-track").nth(1).locator("a").click()
    expect(page.locator("[name=starts_at]")).to_have_value(tomorrow(9).strftime(LOCAL))
    expect(page.locator("[name=length]:checked")).to_have_value("2h")
    expect(page.locator(".picker-track")).to_have_count(7)


def test_weeks_go_on_from_today_and_no_further_than_anybody_books(ada: Client) -> None:
    def shown(days: str) -> str:
        return ada.get(
            "/book/timeline/", {"flavor": "studio", "tenant": "studio", "days": days}
        ).content.decode()

    today = datetime.now(UTC).astimezone(BERLIN).date()
    for asked in ("", "nonsense", "2026-13-45", "1999-01-01", today.isoformat()):
        assert f'name="days" value="{today}"' in shown(asked)
        assert "A week earlier" not in shown(asked)
    later = today + 9 * DAY
    assert f'name="days" value="{later}"' in shown(later.isoformat())
    assert f"days={today + 2 * DAY}" in shown(later.isoformat())
    assert f'name="days" value="{today + 724 * DAY}"' in shown("9999-12-31")


def test_without_a_flavor_there_is_nothing_to_draw(ada: Client) -> None:
    answer = ada.get("/book/timeline/", {"flavor": "no-such"})
    assert answer.status_code == 200
    assert "picker-track" not in answer.content.decode()


def test_windows_that_the_clocks_show_twice_are_drawn_to_scale(ada: Client) -> None:
    """On the day when summer time ends there are 25 hours; in Berlin that is 31 October 2027."""
    page = ada.get(
        "/book/timeline/", {"flavor": "studio", "tenant": "studio", "days": "2027-10-31"}
    ).content.decode()
    begins = int(datetime(2027, 10, 31, tzinfo=BERLIN).timestamp() * 1000)
    assert f'data-starts="{begins}" data-ends="{begins + 25 * 3_600_000}"' in page
