"""Pictures of every page, to be looked at: `pytest tests/web/test_pictures.py --pictures FOLDER`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Page

from leasing.models import Person
from tests.web.browsing import Visits
from tests.web.every_page import Shown, every_page
from tests.web.scenes import Scene
from tests.web.site import Site

WIDTHS = (390, 1280, 2560)
THEMES = ("light", "dark")
LANGUAGES = ("en", "zh-hans")


@pytest.mark.django_db
@pytest.mark.timeout(3600)
def test_pictures_of_every_page(visits: Visits, site: Site, request: pytest.FixtureRequest) -> None:
    """In each width, theme and language; `index.html` shows them side by side."""
    if not (chosen := request.config.getoption("--pictures")):
        pytest.skip("only with --pictures")
    folder = Path(chosen)
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    pages = every_page(visits, site)
    for language in LANGUAGES:
        site.do(partial(_speak, language))
        for shown in pages:
            names += _draw(shown, visits.of(shown.reader), folder, language)
    rows = "\n".join(
        f"<figure><img src={name} loading=lazy><figcaption>{name}</figcaption></figure>" for name in names
    )
    (folder / "index.html").write_text(f"<!doctype html><meta charset='utf-8'>{rows}")
    assert names


def _speak(language: str, _scene: Scene) -> None:
    Person.objects.update(language=language)


def _draw(shown: Shown, page: Page, folder: Path, language: str) -> list[str]:
    drawn = []
    page.goto(shown.path)
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            name = f"{shown.name}-{width}-{theme}-{language}.png"
            page.screenshot(path=folder / name, full_page=True, animations="disabled")
            drawn.append(name)
    return drawn
