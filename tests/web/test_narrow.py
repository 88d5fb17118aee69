"""On a phone nothing has to be scrolled sideways: what a table says stands below each other there."""

from __future__ import annotations

import pytest
from django.urls import reverse

from tests.web.browsing import Visits
from tests.web.site import Site

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]
WIDER = """
() => [...document.querySelectorAll("html, .table-wrap")]
  .filter(each => each.scrollWidth > each.clientWidth).map(each => each.innerText.slice(0, 80))
"""
PAGES = {
    "operator": ("fleet", "fleet-use", "images", "flavors", "closures", "outages"),
    "ada": ("home", "workstations", "storage", "quota", "account"),
    "finance": ("usage", "invoices"),
    "money": ("prices",),
    "approver": ("approvals",),
}


def test_no_table_is_wider_than_a_phone(visits: Visits, site: Site) -> None:
    for who, names in PAGES.items():
        page = visits.page(getattr(site.scene, who))
        page.set_viewport_size({"width": 390, "height": 844})
        for name in names:
            page.goto(reverse(name))
            assert page.evaluate(WIDER) == [], name
