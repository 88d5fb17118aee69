"""Nothing comes out in English where the reader has chosen Chinese, but what people have written."""

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


def english_in(page: str) -> list[str]:
    body = APART.sub("<", page.partition("<body")[2])
    text = " · ".join([*SPOKEN.findall(body), strip_tags(body.replace("<", " · <"))])
    for words in WRITTEN:
        text = text.replace(words, "")
    return ENGLISH.findall(text)


def test_no_page_falls_back_into_english(scene: Scene, sign_in: SignIn) -> None:
    Person.objects.update(language="zh-hans")
    people = {name: sign_in(Person.objects.get(pk=one.pk)) for name, one in scene.everybody().items()}
    found, looked_at = {}, 0
    for row, viewer in rows_shown():
        client = people.get(viewer) or new_client(Accept_Language="zh-hans")
        answer = client.get(path_of(row, scene))
        if "text/html" in answer.headers["Content-Type"]:
            looked_at += 1
            if words := english_in(answer.content.decode()):
                found[row.name] = words
    assert found == {}
    assert looked_at > 40


def test_english_is_noticed() -> None:
    page = '<body><p title="Lift it now">x</p><p>Nothing waits for you.</p><code>as they are typed</code>'
    assert english_in(page) == ["Lift it now", "Nothing waits for"]
