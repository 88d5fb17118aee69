"""What every page says: in the language that was chosen, but for what people have written; times with UTC."""

from __future__ import annotations

import re

import pytest
from django.utils.html import strip_tags

from leasing.models import Person
from tests.web.conftest import SignIn, new_client
from tests.web.every_page import path_of, rows_shown
from tests.web.scenes import Scene

pytestmark = pytest.mark.django_db
WRITTEN = (
    "Turntable of the new stand", "Final frames for the opening, all night", "The stand is done by then.",
    "fan is loud; part ordered", "shares IOMMU group 9 with", "training, one NUMA node",
    "Renders for the museum stand",
)  # fmt: skip
# What is typed, and what stands in a language of its own.
APART = re.compile(r"<(script|style|code|pre|kbd|option)\b.*?</\1>|<\w+ [^>]*\blang=\"en\".*?<", re.DOTALL)
SPOKEN = re.compile(r'(?:title|aria-label|placeholder|alt)="([^"]*)"')
ENGLISH = re.compile(r"\b[A-Za-z]?[a-z]+[ ,;:]+[a-z]{2,} [a-z]{2,}\b")
# With its zone in brackets it is the time of many days; in a request's number it is none.
TIME = re.compile(r"(?<![\da-f:.–])\d{2}:\d{2}(?![\d.])(?!–\d\d:\d\d ?[(（])")
TIMED = re.compile(r'<time [^>]*title="[^"]* UTC">.*?</time>')


def english_in(page: str) -> list[str]:
    body = APART.sub("<", page.partition("<body")[2])
    text = " · ".join([*SPOKEN.findall(body), strip_tags(body.replace("<", " · <"))])
    for words in WRITTEN:
        text = text.replace(words, "")
    return ENGLISH.findall(text)


def untimed_in(page: str) -> list[str]:
    body = APART.sub("<", page.partition("<body")[2])
    return TIME.findall(strip_tags(TIMED.sub("", body).replace("<", " <")))


def test_no_page_falls_back_into_english_or_forgets_utc(scene: Scene, sign_in: SignIn) -> None:
    Person.objects.update(language="zh-hans")
    people = {name: sign_in(Person.objects.get(pk=one.pk)) for name, one in scene.everybody().items()}
    found, looked_at = {}, 0
    for row, viewer in rows_shown():
        client = people.get(viewer) or new_client(Accept_Language="zh-hans")
        answer = client.get(path_of(row, scene))
        if "text/html" in answer.headers["Content-Type"]:
            looked_at += 1
            page = answer.content.decode()
            if words := [*english_in(page), *untimed_in(page)]:
                found[row.name] = words
    assert found == {}
    assert looked_at > 40


def test_english_is_noticed() -> None:
    page = '<body><p title="Lift it now">x</p><p>Nothing waits for you.</p><code>as they are typed</code>'
    assert english_in(page) == ["Lift it now", "Nothing waits for"]


def test_a_time_without_utc_is_noticed() -> None:
    timed = '<time datetime="x" title="2026-01-01 08:00:00 UTC">09:00</time>'
    request = "84cb-98fc84c605da16:94"
    assert untimed_in(f"<body>{timed}<p>from 10:30</p>{request} 09:00–11:00 (Europe/Berlin)") == ["10:30"]
