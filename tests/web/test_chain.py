"""From a line of an invoice to usage, lease, approval, machine, GPU and scrub, and back, by clicks alone."""

from __future__ import annotations

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from leasing.actors import SYSTEM
from leasing.audit.sealer import seal
from leasing.audit.verifier import verify_log
from leasing.billing.closing import close_month
from leasing.billing.months import month_of
from leasing.fsck import run_checks
from leasing.models import Invoice
from tests.web.browsing import Visits
from tests.web.scenes import Scene
from tests.web.site import Site

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]


def closed(scene: Scene) -> Invoice:
    """The month of what has ended, as if it were over."""
    month = month_of(scene.ended.starts_at, scene.studio.timezone)
    seal(scene.now)
    return close_month(actor=SYSTEM, tenant=scene.studio, name=month.name, now=month.ends_at).invoices[0]


def follow(page: Page, name: str) -> None:
    page.get_by_role("main").get_by_role("link", name=name, exact=True).first.click()


def test_every_part_of_a_bill_leads_to_what_it_rests_on_and_back(visits: Visits, site: Site) -> None:
    invoice, lease = site.do(closed), site.scene.ended
    gpu = site.do(lambda _scene: lease.holds.select_related("gpu").get().gpu)
    page = visits.page(site.scene.auditor)
    page.goto(reverse("invoices"))
    follow(page, invoice.number)
    follow(page, "€4.57")
    line = page.url
    expect(page.get_by_role("heading", level=1)).to_have_text("€4.57")
    expect(page.get_by_text("Inside the limits: none was needed")).to_be_visible()
    follow(page, invoice.number)
    page.wait_for_url(f"**{reverse('invoice', args=[invoice.pk])}")
    parts = {
        lease.machine_name: reverse("workstation", args=[lease.pk]),
        str(site.scene.host.row): reverse("host", args=[site.scene.host.row.pk]),
        str(gpu): reverse("gpu", args=[gpu.pk]),
        "Scrub certificate": reverse("certificate", args=[lease.pk]),
    }
    for name, address in parts.items():
        page.goto(line)
        follow(page, name)
        page.wait_for_url(f"**{address}**")
    page.goto(line)
    page.locator(".timeline a").first.click()
    page.wait_for_url("**/audit/**")
    page.goto(reverse("workstation", args=[lease.pk]))
    follow(page, "Its lines")
    page.wait_for_url("**/usage/lines/**")
    follow(page, "€4.57")
    assert page.url == line
    assert visits.complaints == []
    assert site.do(lambda scene: run_checks(scene.now)) == []
    assert site.do(lambda _scene: verify_log().problems) == []
