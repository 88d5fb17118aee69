"""Every page of the portal, found by the table of addresses, which has all of them: none is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from django.urls import reverse
from playwright.sync_api import Page

from leasing.models import Person
from tests.web.browsing import Visits
from tests.web.scenes import Scene
from tests.web.site import Site
from tests.web.test_access import ROLES, TABLE, Row

# Whoever sees the most of a page comes first.
VIEWERS = ("operator", "money", "finance", "approver", "ada", "bob", "auditor", "stranger", "nobody")


@dataclass(frozen=True)
class Shown:
    """A page as one of its readers sees it."""

    name: str
    path: str
    reader: Person | None


def every_page(visits: Visits, site: Site) -> Iterator[tuple[Shown, Page]]:
    """Each is open in a browser of its reader. Fragments, downloads and the API are no pages."""
    open_pages: dict[str, Page] = {}
    seen: set[str] = set()
    for row in TABLE:
        viewer = _viewer(row)
        if viewer is None or row.name in seen:
            continue
        people = site.scene.everybody()
        reader = people.get(viewer)
        page = open_pages.get(viewer) or visits.page(reader)
        open_pages[viewer] = page
        path = site.do(partial(_path, row))
        answer = page.request.get(path)
        if answer.ok and "text/html" in answer.headers["content-type"] and "<html" in answer.text():
            seen.add(row.name)
            page.goto(path)
            yield Shown(row.name, path, reader), page


def _path(row: Row, scene: Scene) -> str:
    return reverse(row.name, kwargs=row.arguments(scene)) + row.query


def _viewer(row: Row) -> str | None:
    if row.method != "get" or row.name.startswith("api-"):
        return None
    return next((role for role in VIEWERS if role in ROLES and row.expected(role) == 200), None)
