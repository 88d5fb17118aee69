"""axe-core on every page, on a phone and beside a desk, light and dark: nothing that keeps people out."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.web.browsing import Visits
from tests.web.every_page import every_page
from tests.web.site import Site

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}
SCREENS = ((390, "light"), (1280, "dark"))
KEEPS_OUT = frozenset({"serious", "critical"})


@pytest.mark.django_db
@pytest.mark.timeout(300)
def test_no_page_keeps_anybody_out(visits: Visits, site: Site) -> None:
    pages = every_page(visits, site)
    assert len(pages) > 40
    found = []
    for shown in pages:
        page = visits.of(shown.reader)
        for width, theme in SCREENS:
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(shown.path)
            found += [f"{shown.name} {width} {theme}: {fault}" for fault in _faults(page)]
    assert not found, "\n".join(found)


def test_what_keeps_people_out_is_found(visits: Visits) -> None:
    page = visits.page()
    page.set_content("<!doctype html><html lang=en><title>x</title><main><h1>x</h1><img src=x><input></main>")
    assert {fault.partition(" ")[0] for fault in _faults(page)} == {"image-alt", "label"}


def _faults(page: Page) -> list[str]:
    violations: list[dict[str, Any]] = Axe().run(page, options=RULES).response["violations"]
    return [
        f"{one['id']} {one['nodes'][0]['html'][:120]}" for one in violations if one["impact"] in KEEPS_OUT
    ]
