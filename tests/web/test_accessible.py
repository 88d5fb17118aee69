"""axe-core on every page, on a phone and beside a desk, light and dark: nothing that keeps people out."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.web.browsing import Visits
from tests.web.every_page import every_page
from tests.web.site import Site

pytestmark = pytest.mark.django_db
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}
CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}, "resultTypes": ["violations"]}
# Shape depends on the width, colour on the theme too: both themes at both widths, once for contrast alone.
SCREENS = ((390, "light", RULES), (390, "dark", CONTRAST), (1280, "dark", RULES), (1280, "light", CONTRAST))
KEEPS_OUT = frozenset({"serious", "critical"})
# Nobody who goes about by keys is left to guess where they are.
UNSEEN = """
() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
  .filter(element => element.checkVisibility() && !element.disabled && element.type !== "hidden")
  .filter(element => {
    element.focus({ preventScroll: true });
    if (document.activeElement !== element) return false;
    const shown = element.matches(".chip input") ? element.nextElementSibling : element;
    return [shown, ...shown.querySelectorAll("rect")].every(each => {
      const style = getComputedStyle(each);
      return (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2)
        && (style.stroke === "none" || parseFloat(style.strokeWidth) < 2);
    });
  })
  .map(element => element.outerHTML.slice(0, 120))
"""


@pytest.mark.timeout(300)
def test_no_page_keeps_anybody_out(visits: Visits, site: Site) -> None:
    pages = every_page(visits, site)
    assert len(pages) > 40
    found = []
    for shown in pages:
        page = visits.of(shown.reader)
        page.set_viewport_size({"width": SCREENS[0][0], "height": 900})
        page.goto(shown.path)
        for width, theme, rules in SCREENS:
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
            page.set_viewport_size({"width": width, "height": 900})
            found += [f"{shown.name} {width} {theme}: {fault}" for fault in _faults(page, rules)]
        found += [f"{shown.name}: focus not seen on {each}" for each in page.evaluate(UNSEEN)]
    assert not found, "\n".join(found)


def test_what_keeps_people_out_is_found(visits: Visits) -> None:
    page = visits.page()
    page.set_content(
        "<!doctype html><html lang=en><title>x</title><main><h1>x</h1><img src=x><input>"
        "<p style='color: #aaa; background: #fff'>pale</p>"
        "<button style='all: unset; font-size: 9px'>i</button>"
        "<button style='all: unset; font-size: 9px'>j</button></main>"
    )
    found = {fault.partition(" ")[0] for fault in _faults(page, RULES)}
    assert found == {"image-alt", "label", "color-contrast", "target-size"}
    assert {fault.partition(" ")[0] for fault in _faults(page, CONTRAST)} == {"color-contrast"}
    assert len(page.evaluate(UNSEEN)) == 3, "what the browser itself draws is thinner"


def _faults(page: Page, rules: dict[str, Any]) -> list[str]:
    violations: list[dict[str, Any]] = Axe().run(page, options=rules).response["violations"]
    return [
        f"{one['id']} {one['nodes'][0]['html'][:120]}" for one in violations if one["impact"] in KEEPS_OUT
    ]
