"""The main job in a real browser, from asking to the evidence, and what holds on every page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.sessions.models import Session
from django.urls import reverse
from playwright.sync_api import Page, expect

from hosts.protocol import messages as m
from leasing import policy
from leasing.actors import SYSTEM
from leasing.models import Lease
from tests.web.browsing import PICTURE_COLOUR, PictureHost, Visits
from tests.web.scenes import PASSWORD, PROVISION_STEPS, Scene
from tests.web.site import Site, wait_until
from tools.pace import slowness

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]
SOON = 15_000 * slowness()


def newest(scene: Scene) -> Lease:
    return Lease.objects.latest("requested_at")


def catch_up(scene: Scene) -> None:
    """The scene's clock follows the real one, which the pages go by."""
    scene.now = datetime.now(UTC)
    scene.beat()
    scene.tick()


def mark(page: Page) -> None:
    page.evaluate("window.theSamePage = true")


def is_same(page: Page) -> bool:
    return bool(page.evaluate("window.theSamePage === true"))


def test_the_first_lease_from_asking_to_the_evidence(visits: Visits, site: Site) -> None:
    page = visits.page()
    page.goto("/")
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Book", exact=True).click()
    expect(page.locator("#price")).to_contain_text("€15.20")
    page.get_by_role("radio", name="2 hours").check()
    expect(page.locator("#price")).to_contain_text("€7.60")
    page.get_by_label("What for").fill("A story")
    page.get_by_role("button", name="Book it").click()
    expect(page.get_by_role("status").filter(has_text="Booked.")).to_be_visible()
    lease = site.do(newest)
    assert page.url.endswith(reverse("workstation", args=[lease.pk]))

    mark(page)
    site.do(catch_up)
    site.do(lambda scene: scene.steps(lease, PROVISION_STEPS[:2]))
    expect(page.locator('[data-step="bind"]')).to_have_attribute("data-step-state", "started", timeout=SOON)
    expect(page.locator('[data-step="identify"]')).to_have_attribute("data-step-state", "done")
    site.do(lambda scene: scene.steps(lease, PROVISION_STEPS, finished=True))
    site.do(lambda scene: bring_up(scene, lease))
    expect(page.locator('[data-state="active"]')).to_be_visible(timeout=SOON)
    assert is_same(page)

    page.get_by_role("link", name="End early").click()
    expect(page.get_by_text("Billing stops at once")).to_be_visible()
    page.get_by_role("button", name="End now").click()
    expect(page.locator('[data-state="releasing"]')).to_be_visible()
    mark(page)
    site.do(lambda scene: give_back(scene, lease))
    expect(page.locator('[data-scrub="passed"]')).to_be_visible(timeout=SOON)
    expect(page.get_by_text("Final cost")).to_be_visible()
    assert is_same(page)


def test_the_console_shows_the_picture_and_takes_keys(visits: Visits, site: Site) -> None:
    host, lease = PictureHost(site), site.scene.active
    host.prepare()
    page = visits.page(site.scene.ada)
    page.goto(reverse("workstation", args=[lease.pk]))
    page.get_by_role("link", name="Open console").click()
    wait_until(lambda: answered(page, host, lease))
    expect(page.locator("#console-state")).to_have_text("Connected", timeout=SOON)
    page.wait_for_function(
        """colour => {
            const canvas = document.querySelector("#screen canvas");
            const [r, g, b] = canvas.getContext("2d").getImageData(5, 5, 1, 1).data;
            return r === colour[0] && g === colour[1] && b === colour[2];
        }""",
        arg=list(PICTURE_COLOUR),
    )
    page.keyboard.type("ok")
    wait_until(lambda: _heard(page, host, [ord("o"), ord("k")]))


def answered(page: Page, host: PictureHost, lease: Lease) -> bool:
    page.wait_for_timeout(20)
    return host.answer(lease)


def _heard(page: Page, host: PictureHost, keys: list[int]) -> bool:
    page.wait_for_timeout(20)
    return host.keys_heard == keys


def test_a_request_is_approved_and_its_page_follows(visits: Visits, site: Site) -> None:
    hers, theirs = visits.page(site.scene.ada), visits.page(site.scene.approver)
    hers.goto(reverse("workstation", args=[site.scene.requested.pk]))
    expect(hers.locator('[data-state="requested"]')).to_be_visible()
    mark(hers)
    theirs.goto("/")
    theirs.get_by_text("1 request waits for your decision.").click()
    row = theirs.locator(f'[data-lease="{site.scene.requested.pk}"]')
    own = theirs.locator(f'[data-lease="{site.scene.own_request.pk}"]')
    expect(own.get_by_role("button", name="Approve")).to_have_count(0)
    expect(own.get_by_role("button", name="Decline")).to_have_count(0)
    row.get_by_label("Note", exact=True).fill("Good luck with the opening.")
    row.get_by_role("button", name="Approve").click()
    expect(theirs.get_by_text("Approved.", exact=True)).to_be_visible()
    expect(hers.locator('[data-state="scheduled"]')).to_be_visible(timeout=SOON)
    expect(hers.get_by_text("Good luck with the opening.").first).to_be_visible()
    assert is_same(hers)


def test_switching_off_and_on_is_seen_without_reloading(visits: Visits, site: Site) -> None:
    lease = site.scene.active
    page = visits.page(site.scene.ada)
    page.goto(reverse("workstation", args=[lease.pk]))
    page.get_by_role("button", name="Power off").click()
    expect(page.get_by_text("Asked the host.")).to_be_visible()
    site.do(lambda scene: scene.switch(lease, m.MachineStopped(lease_id=lease.pk, cause="command")))
    expect(page.get_by_role("button", name="Power on")).to_be_visible(timeout=SOON)
    expect(page.get_by_text("switched off but still yours")).to_be_visible()


@pytest.mark.parametrize("way", ["with the mouse", "with the space bar"])
def test_news_that_comes_while_a_button_is_pressed_takes_no_click_away(
    visits: Visits, site: Site, way: str
) -> None:
    page = visits.page(site.scene.ada)
    page.goto(reverse("workstation", args=[site.scene.active.pk]))
    button = page.get_by_role("button", name="Power off")
    if way == "with the mouse":
        button.hover()
        page.mouse.down()
    else:
        button.focus()
        page.keyboard.down(" ")
    with page.expect_response("**/live/"):
        page.evaluate("htmx.trigger('[data-live]', 'refresh')")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.mouse.up() if way == "with the mouse" else page.keyboard.up(" ")
    expect(page.get_by_text("Asked the host.")).to_be_visible()


def test_what_came_while_a_button_was_pressed_is_shown_when_it_is_let_go(visits: Visits, site: Site) -> None:
    lease = site.scene.active
    page = visits.page(site.scene.ada)
    page.goto(reverse("workstation", args=[lease.pk]))
    page.get_by_role("button", name="Power off").click()
    expect(page.get_by_text("Asked the host.")).to_be_visible()
    page.get_by_role("heading", name="What happened").hover()
    page.mouse.down()
    with page.expect_response("**/live/"):
        site.do(lambda scene: scene.switch(lease, m.MachineStopped(lease_id=lease.pk, cause="command")))
        page.evaluate("htmx.trigger('[data-live]', 'refresh')")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    expect(page.get_by_role("button", name="Power off")).to_be_visible()
    page.mouse.up()
    expect(page.get_by_role("button", name="Power on")).to_be_visible()


def test_a_lost_connection_is_said_with_its_age_and_heals(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada)
    page.goto("/")
    lost = page.locator("[data-live-lost]")
    page.wait_for_function("document.querySelector('[data-live]') !== null && window.htmx !== undefined")
    expect(lost).to_be_hidden()
    key = page.context.cookies()[0]["value"]
    page.route("**/events/**", lambda route: route.abort())
    page.route("**/live/", lambda route: route.abort())
    site.do(lambda scene: _change_roles(scene))
    expect(lost).to_be_visible(timeout=SOON)
    expect(lost).to_contain_text(re.compile(r"\d+ s old"))
    page.unroute("**/events/**")
    page.unroute("**/live/")
    expect(lost).to_be_hidden(timeout=2 * SOON)
    site.do(lambda _scene: Session.objects.filter(session_key=key).delete())
    expect(page.get_by_label("User name")).to_be_visible(timeout=2 * SOON)


def test_booking_works_without_javascript(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada, javascript=False)
    page.goto("/book/")
    page.locator('input[name="length"][value="1h"]').check(force=True)
    page.get_by_role("button", name="Show the price").click()
    expect(page.locator("#price")).to_contain_text("€3.80")
    page.get_by_role("button", name="Book it").click()
    expect(page.get_by_role("status").filter(has_text="Booked.")).to_be_visible()


def test_finance_downloads_what_the_page_shows(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.finance)
    page.goto("/usage/")
    page.locator(".figure").first.click()
    expect(page.get_by_role("heading", name="Lines of usage")).to_be_visible()
    page.get_by_text("Download", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV", exact=True).click()
    text = download.value.path().read_text()
    assert text.startswith("lease,tenant,person")
    assert len(text.splitlines()) - 1 == page.locator("table.data tbody tr").count()
    with page.expect_download() as download:
        page.get_by_role("link", name="Excel").click()
    assert download.value.path().read_bytes().startswith(b"PK")


def test_every_page_fits_a_phone(visits: Visits, site: Site) -> None:
    for username, addresses in _pages(site.scene).items():
        page = visits.page(site.scene.everybody()[username], width=390)
        for address in addresses:
            page.goto(address)
            assert overhang(page) <= 0, f"{address} is wider than a phone"


def test_chinese_and_the_dark_theme_stay_chosen(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada, width=390)
    page.goto("/")
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_role("heading", name="我的工作站")).to_be_visible()
    before = page.locator("html").get_attribute("data-bs-theme")
    page.locator("[data-switch-theme]").click()
    for address in ("/", "/book/", f"/workstations/{site.scene.ended.pk}/"):
        page.goto(address)
        assert page.locator("html").get_attribute("data-bs-theme") != before
        assert page.locator("html").get_attribute("lang") == "zh-hans"
        assert overhang(page) <= 0, f"{address} is wider than a phone"


def overhang(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    root = "document.documentElement"
    return int(page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))


def _pages(scene: Scene) -> dict[str, list[str]]:
    workstations = [scene.active, scene.preparing, scene.ended, scene.requested]
    return {
        "ada": [
            "/",
            "/book/",
            "/calendar/",
            "/account/",
            "/nowhere/",
            *(f"/workstations/{lease.pk}/" for lease in workstations),
        ],
        "approver": ["/approvals/", "/audit/", "/workstations/"],
        "operator": ["/fleet/", "/fleet/models/", f"/fleet/gpus/{scene.quarantined.pk}/"],
        "finance": ["/usage/", "/usage/lines/", f"/usage/lines/{scene.ended.segments.get().pk}/"],
        "auditor": ["/audit/1/"],
    }


def _change_roles(scene: Scene) -> None:
    """Another role of hers ends her streams, which then ask again."""
    policy.grant_role(
        actor=SYSTEM, person=scene.ada, tenant=scene.studio, role="finance", now=datetime.now(UTC)
    )


def bring_up(scene: Scene, lease: Lease) -> None:
    scene.host.say(
        m.MachineRunning(lease_id=lease.pk), at=scene.now, command=scene.command(lease, "provision")
    )


def give_back(scene: Scene, lease: Lease) -> None:
    scene.now = datetime.now(UTC) + timedelta(seconds=1)
    gpu = lease.holds.get().gpu
    scene.gone(lease)
    scene.scrub(scene.host, gpu, lease=lease)
