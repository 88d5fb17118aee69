"""Reports and invoices on paper: dark on white whatever the screen was, and nothing cut off at the edge."""

from __future__ import annotations

import pytest
from django.urls import reverse

from tests.web.browsing import Visits
from tests.web.site import Site
from tests.web.test_money import closed

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(90)]
# A4 less its margins, in the browser's pixels.
PAPER = 680
PALEST = 110
LOOK = """
() => {
  const words = document.querySelectorAll("main :is(h1, h2, td, th, dd, dt, a, span, strong)");
  const brightest = Math.max(...[...words]
    .filter(each => each.checkVisibility() && !each.closest(".state"))
    .map(each => Math.min(...getComputedStyle(each).color.match(/\\d+/g).slice(0, 3).map(Number))));
  const cut = [...document.querySelectorAll(".table-wrap, main")]
    .filter(each => each.scrollWidth > each.clientWidth + 1);
  return [brightest, cut.map(each => each.textContent.trim().slice(0, 60))];
}
"""


def test_what_is_printed_can_be_read(visits: Visits, site: Site) -> None:
    issued = site.do(lambda scene: closed(scene))
    page = visits.page(site.scene.finance, width=PAPER)
    page.emulate_media(color_scheme="dark", media="print")
    paths = [reverse(name) for name in ("usage", "usage-lines", "budget", "invoices")]
    for path in [*paths, reverse("invoice", args=[issued.pk])]:
        page.goto(path)
        brightest, cut = page.evaluate(LOOK)
        assert brightest <= PALEST, f"{path} prints pale"
        assert not cut, f"{path} is cut off"
