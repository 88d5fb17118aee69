"""Every story again, by somebody who has a keyboard and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from hosts.models import Gpu
from leasing.audit.sealer import seal
from leasing.audit.verifier import verify_log
from leasing.fsck import run_checks
from leasing.models import (
    Closure,
    EmergencyStop,
    HandOver,
    Lease,
    MonthClose,
    Person,
    QuotaRequest,
    Share,
    SshKey,
)
from leasing.quota_requests import ask_quota
from tests.web.browsing import PictureHost, Visits
from tests.web.keyboard import Keyboard
from tests.web.scenes import PROVISION_STEPS, Scene
from tests.web.site import Site, wait_until
from tests.web.test_homes import bring_up as bring_up_newest
from tests.web.test_homes import offer_homes
from tests.web.test_snapshots import removed, saved_and_gone, the_one
from tests.web.test_stories import SOON, answered, bring_up, catch_up, give_back, newest

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(120)]
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBnxrgGM8mVyAHVUTQ2rUsTzB0BEShHHNpfKZGLcwVtV ada@desk"


@pytest.fixture(autouse=True)
def in_order(site: Site) -> Iterator[None]:
    yield
    assert site.do(_findings) == []


def _findings(scene: Scene) -> list[object]:
    seal(now=scene.now)
    return [*run_checks(scene.now), *verify_log().problems]


def at(page: Page, name: str, *arguments: object) -> Keyboard:
    """On that page, past its header."""
    page.goto(reverse(name, args=list(arguments)))
    keyboard = Keyboard(page)
    keyboard.skip()
    return keyboard


def comes_true(site: Site, found: Callable[[], bool]) -> None:
    wait_until(lambda: site.do(lambda _scene: found()))


def test_a_designer_books_on_the_timeline_follows_the_steps_extends_and_ends(
    visits: Visits, site: Site
) -> None:
    page = visits.page(site.scene.ada)
    keyboard = at(page, "home")
    keyboard.follow(page.get_by_role("link", name="Book", exact=True))
    keyboard.use(page.get_by_text("Pick a time from a timeline"))
    expect(page.locator(".picker-track")).to_have_count(7)
    keyboard.stays(page.locator("#timeline"))
    expect(page.locator("[name=when][value=now]")).to_be_checked()
    keyboard.use(page.locator(".picker-track").nth(2).locator("a").first)
    expect(page.locator("[name=when][value=at]")).to_be_checked()
    began = page.locator("[name=starts_at]").input_value()
    keyboard.press("ArrowRight")
    assert page.locator("[name=starts_at]").input_value() > began
    keyboard.reach(page.locator("[name=length][value=until]"))
    keyboard.press("ArrowRight")
    expect(page.locator("[name=length][value=until]")).not_to_be_checked()
    keyboard.reach(page.locator("[name=when][value=at]"), back=True)
    keyboard.press("ArrowLeft", "ArrowLeft")
    expect(page.locator("[name=when][value=now]")).to_be_checked()
    keyboard.fill(page.get_by_label("What for"), "By keys alone")
    keyboard.follow(page.get_by_role("button", name="Book it"))
    expect(page.get_by_role("status").filter(has_text="Booked.")).to_be_visible()
    lease = site.do(newest)
    assert lease.purpose == "By keys alone"

    end = page.locator(f'a[href="{reverse("workstation-end", args=[lease.pk])}"]')
    keyboard.reach(end)
    site.do(catch_up)
    site.do(lambda scene: scene.steps(lease, PROVISION_STEPS[:2]))
    expect(page.locator('[data-step="bind"]')).to_have_attribute("data-step-state", "started", timeout=SOON)
    keyboard.stays(end)
    site.do(lambda scene: scene.steps(lease, PROVISION_STEPS, finished=True))
    site.do(lambda scene: bring_up(scene, lease))
    expect(page.locator('[data-state="active"]')).to_be_visible(timeout=SOON)
    keyboard.stays(end)

    keyboard.follow(page.locator("[data-offer]").first)
    expect(page.get_by_text("waits for the host")).to_be_visible()
    keyboard.follow(end)
    expect(page.get_by_text("Billing stops at once")).to_be_visible()
    keyboard.follow(page.get_by_role("button", name="End now"))
    expect(page.locator('[data-state="releasing"]')).to_be_visible()
    tags = page.locator("#tags > summary")
    keyboard.reach(tags)
    site.do(lambda scene: give_back(scene, lease))
    expect(page.locator('[data-scrub="passed"]')).to_be_visible(timeout=SOON)
    keyboard.stays(tags)


def test_a_workstation_is_shared_used_by_a_colleague_and_handed_over(visits: Visits, site: Site) -> None:
    scene = site.scene
    hers, theirs = visits.page(scene.ada), visits.page(scene.approver)
    theirs.goto("/")
    expect(theirs.get_by_text("shares it with you")).to_have_count(0)
    keyboard = at(hers, "workstation", scene.active.pk)
    keyboard.use(hers.get_by_text("Share it with a colleague"))
    keyboard.fill(hers.locator("#share-person"), "approver")
    keyboard.press("Escape")
    keyboard.use(hers.locator("#share-level"), "u")
    keyboard.follow(hers.get_by_role("button", name="Share it"))
    expect(hers.get_by_text("Shared with Petra Hahn")).to_be_visible()
    assert site.do(lambda _scene: Share.objects.get().level) == "use"
    expect(theirs.get_by_text("Ada Lindqvist shares it with you")).to_be_visible(timeout=SOON)
    card = theirs.locator(f'[data-lease="{scene.active.pk}"]')
    Keyboard(theirs).use(card.get_by_role("link", name="Console"))
    expect(theirs.locator("#screen")).to_be_visible()
    keyboard.follow(hers.get_by_role("button", name="Withdraw"))
    expect(hers.get_by_text("It is no longer shared")).to_be_visible()
    theirs.goto("/")
    expect(theirs.get_by_text("shares it with you")).to_have_count(0)

    keyboard = at(hers, "workstation", scene.scheduled.pk)
    keyboard.use(hers.get_by_text("Hand it over for good"))
    keyboard.fill(hers.locator("#give-person"), "approver")
    keyboard.press("Escape")
    keyboard.use(hers.get_by_role("button", name="Offer it"))
    expect(hers.get_by_text("Until they accept it stays yours.")).to_be_visible()
    keyboard = at(theirs, "home")
    keyboard.use(theirs.get_by_role("button", name="Accept"))
    expect(theirs.get_by_text("It is yours.")).to_be_visible()
    assert site.do(lambda _scene: HandOver.objects.get().state) == "accepted"


def test_a_workstation_is_saved_at_its_end_started_from_and_what_was_saved_is_removed(
    visits: Visits, site: Site
) -> None:
    page = visits.page(site.scene.ada)
    site.do(offer_homes)
    keyboard = at(page, "book")
    keyboard.use(page.get_by_label("Attach my home volume"), " ")
    expect(page.get_by_label("Attach my home volume")).to_be_checked()
    keyboard.follow(page.get_by_role("button", name="Book it"))
    lease = site.do(bring_up_newest)
    keyboard = at(page, "workstation", lease.pk)
    keyboard.follow(page.get_by_role("button", name="Take it at the end"))
    keyboard.follow(page.get_by_role("link", name="Take none"))
    keyboard.follow(page.get_by_role("button", name="Take none"))
    keyboard = at(page, "workstation", lease.pk)
    keyboard.follow(page.locator(f'a[href="{reverse("workstation-end", args=[lease.pk])}"]'))
    keyboard.follow(page.get_by_role("button", name="Save its disk, then end"))
    expect(page.get_by_text("its disk is copied now")).to_be_visible()
    site.do(saved_and_gone)
    keyboard = at(page, "storage")
    row = page.locator("[data-snapshot]")
    keyboard.follow(row.get_by_role("link", name="Start from it"))
    expect(page.get_by_label("Start from")).to_have_value(str(site.do(lambda _scene: the_one().pk)))
    keyboard = at(page, "storage")
    keyboard.follow(row.get_by_role("link", name="Remove"))
    keyboard.follow(page.get_by_role("button", name="Remove it"))
    expect(row).to_contain_text("being removed")
    assert site.do(removed) == []


def test_an_approver_decides_on_a_lease_and_on_a_quota(visits: Visits, site: Site) -> None:
    scene = site.scene
    site.do(ask_for_more)
    page = visits.page(scene.approver)
    keyboard = at(page, "approvals")
    row = page.locator(f'[data-lease="{scene.requested.pk}"]')
    keyboard.fill(row.get_by_label("Note", exact=True), "Good luck.")
    keyboard.use(row.get_by_role("button", name="Approve", exact=True))
    expect(page.get_by_text("Approved.", exact=True)).to_be_visible()
    assert site.do(lambda _scene: Lease.objects.get(pk=scene.requested.pk).state) == "scheduled"
    keyboard = at(page, "quota")
    keyboard.use(page.get_by_role("button", name="Grant"))
    expect(page.locator('[data-state="granted"]')).to_be_visible()
    assert site.do(lambda _scene: QuotaRequest.objects.get().state) == "granted"


def ask_for_more(scene: Scene) -> None:
    ask_quota(
        actor=scene.actor(scene.ada), tenant=scene.studio, kind="longest", value=Decimal(200),
        reason="The new stand", now=scene.now,
    )  # fmt: skip


def test_an_operator_drains_looks_at_quarantine_and_stops(visits: Visits, site: Site) -> None:
    scene = site.scene
    page = visits.page(scene.operator)
    keyboard = at(page, "fleet")
    tile = page.locator(f'[data-gpu="{scene.quarantined.address}"]')
    keyboard.reach(tile)
    page.evaluate("document.querySelector('#room').dataset.old = 1; htmx.trigger('#fleet', 'refresh')")
    expect(page.locator("[data-old]")).to_have_count(0)
    keyboard.stays(tile)
    with page.expect_navigation():
        keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Life of the card")).to_be_visible()
    keyboard.skip()
    keyboard.follow(page.get_by_role("button", name="Try intake again"))
    assert site.do(lambda _scene: Gpu.objects.get(pk=scene.quarantined.pk).state) != "quarantined"

    keyboard = at(page, "fleet")
    keyboard.follow(page.locator(f'a[href="{reverse("drain-host", args=[scene.host.row.pk])}"]'))
    keyboard.fill(page.get_by_label("Why"), "New firmware")
    keyboard.follow(page.get_by_role("button", name="Close it"))
    assert site.do(lambda _scene: Closure.objects.filter(reason="New firmware").exists())

    keyboard = at(page, "emergency-stop")
    keyboard.reach(page.locator("#tenant"))
    keyboard.type("Studio")
    keyboard.follow(page.locator("section", has_text="One team").get_by_role("button"))
    expect(page.get_by_role("heading", name="Stop Studio?")).to_be_visible()
    keyboard.use(page.locator("[name=bookings]"), "Space")
    keyboard.fill(page.get_by_label("Why"), "Smoke")
    keyboard.fill(page.locator("#typed"), "Studio")
    keyboard.follow(page.get_by_role("button", name="Stop it now"))
    assert site.do(lambda _scene: EmergencyStop.objects.filter(reason="Smoke", bookings=True).exists())


def test_finance_closes_a_month_and_takes_the_usage_away(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.money)
    keyboard = at(page, "invoices")
    keyboard.follow(page.get_by_role("link", name="Look and close").first)
    keyboard.follow(page.get_by_role("button", name="Close and issue"))
    assert site.do(lambda _scene: MonthClose.objects.exists())
    page = visits.page(site.scene.finance)
    keyboard = at(page, "usage")
    summary = page.locator("details.menu summary", has_text="Download")
    keyboard.use(summary)
    keyboard.reach(page.get_by_role("link", name="CSV", exact=True))
    keyboard.press("Escape")
    keyboard.stays(summary)
    keyboard.press("Enter")
    keyboard.reach(page.get_by_role("link", name="CSV", exact=True))
    with page.expect_download() as download:
        keyboard.press("Enter")
    assert download.value.path().read_text().startswith("lease,tenant,person")
    keyboard.reach(page.locator(".figure").first)
    expect(page.locator("details.menu[open]")).to_have_count(0)


def test_ones_own_settings(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada)
    keyboard = at(page, "home")
    page.reload()
    menu = page.locator("header details.menu")
    keyboard.use(menu.locator("summary"))
    keyboard.follow(menu.get_by_role("link", name="Account"))
    keyboard.fill(page.locator("#ssh-key"), SSH_KEY)
    keyboard.follow(page.get_by_role("button", name="Add the key"))
    keyboard.follow(page.locator("#ssh-keys").get_by_role("button", name="Remove"))
    assert site.do(lambda _scene: SshKey.objects.count()) == 0
    keyboard.follow(page.get_by_role("link", name="Your home volumes"))
    expect(page.get_by_role("heading", name="Home volumes")).to_be_visible()
    keyboard = at(page, "notices")
    keyboard.use(page.get_by_label("Browser: It is ready"), "Space")
    keyboard.follow(page.get_by_role("button", name="Save", exact=True).first)
    expect(page.get_by_label("Browser: It is ready")).to_be_checked()
    keyboard = at(page, "account")
    keyboard.use(page.locator("#id_language"), "End")
    keyboard.fill(page.locator("#id_timezone"), "Asia/Tokyo")
    keyboard.reach(page.locator("section", has=page.locator("#id_language")).get_by_role("button"))
    with page.expect_navigation():
        keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("lang", re.compile("zh"))
    assert site.do(lambda _scene: Person.objects.get(username="ada").timezone) == "Asia/Tokyo"


def test_nothing_keeps_the_focus_and_nothing_is_out_of_reach(visits: Visits, site: Site) -> None:
    book, lease = f"{reverse('book')}?days=today", reverse("workstation", args=[site.scene.active.pk])
    hers, theirs = visits.page(site.scene.ada), visits.page(site.scene.operator)
    for page, path in (
        (hers, book), (hers, lease), (hers, reverse("calendar")), (hers, reverse("account")),
        (theirs, reverse("fleet")), (theirs, reverse("images")),
    ):  # fmt: skip
        page.goto(path)
        if path == book:
            expect(page.locator(".picker-track")).to_have_count(7)
        assert Keyboard(page).walk() == [], path


def test_the_console_takes_every_key_but_the_way_out(visits: Visits, site: Site) -> None:
    host, lease = PictureHost(site), site.scene.active
    host.prepare()
    page = visits.page(site.scene.ada)
    page.goto(reverse("console", args=[lease.pk]))
    wait_until(lambda: answered(page, host, lease))
    expect(page.locator("#console-state")).to_have_text("Connected", timeout=SOON)
    keyboard, screen = Keyboard(page), page.locator("#screen canvas")
    keyboard.stays(screen)
    keyboard.press("Tab", "a")
    keyboard.stays(screen)
    keyboard.press("Control+Alt+KeyG")
    out = page.get_by_role("button", name="Full screen")
    expect(out).to_be_focused()
    keyboard.press("Tab")
    keyboard.stays(screen)
    keyboard.press("b")
    wait_until(lambda: heard(page, host, ord("b")))
    assert ord("a") in host.keys_heard
    assert ord("g") not in host.keys_heard


def heard(page: Page, host: PictureHost, key: int) -> bool:
    page.wait_for_timeout(20)
    return key in host.keys_heard


def test_single_keys_do_things_until_they_are_switched_off(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada)
    search = page.get_by_role("searchbox")
    page.goto("/")
    page.keyboard.press("/")
    expect(search).to_be_focused()
    page.goto("/")
    page.keyboard.press("b")
    page.wait_for_url(f"**{reverse('book')}")
    keyboard = at(page, "account")
    keyboard.use(page.get_by_label("Single keys do things"), "Space")
    keyboard.follow(page.locator("section", has=page.locator("#id_language")).get_by_role("button"))
    expect(page.get_by_label("Single keys do things")).not_to_be_checked()
    page.goto("/")
    page.keyboard.press("/")
    page.keyboard.press("b")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    assert page.url.endswith("/")
    assert visits.complaints == []
