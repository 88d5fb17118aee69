"""Every page of the portal, found by the table of addresses, which has all of them: none is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from django.urls import reverse

from leasing.models import Person
from tests.web.browsing import Visits
from tests.web.scenes import Scene
from tests.web.site import Site
from tests.web.test_access import ROLES, TABLE, Row

# Never at rest: one waits for a host to answer, the other never ends.
BUSY = frozenset({"console", "events"})
# Whoever sees the most of a page comes first.
VIEWERS = ("operator", "money", "finance", "approver", "ada", "bob", "auditor", "stranger", "nobody")


@dataclass(frozen=True)
class Shown:
    """A page as one of its readers sees it."""

    name: str
    path: str
    reader: Person | None


def every_page(visits: Visits, site: Site) -> list[Shown]:
    """Fragments, downloads, the console's picture and the API are no pages."""
    found: dict[str, Shown] = {}
    for row, viewer in rows_shown():
        reader = site.scene.everybody().get(viewer)
        path = site.do(partial(path_of, row))
        answer = visits.of(reader).request.get(path)
        if answer.ok and "text/html" in answer.headers["content-type"] and "<html" in answer.text():
            found[row.name] = Shown(row.name, path, reader)
    return list(found.values())


def rows_shown() -> list[tuple[Row, str]]:
    """Each address once, with the role of whoever sees the most of it."""
    found: dict[str, tuple[Row, str]] = {}
    for row in TABLE:
        viewer = _viewer(row)
        if viewer is not None and row.name not in BUSY and not row.name.endswith("-live"):
            found.setdefault(row.name, (row, viewer))
    return list(found.values())


def path_of(row: Row, scene: Scene) -> str:
    return reverse(row.name, kwargs=row.arguments(scene)) + row.query


def _viewer(row: Row) -> str | None:
    if row.method != "get" or row.name.startswith("api-"):
        return None
    return next((role for role in VIEWERS if role in ROLES and row.expected(role) == 200), None)
