"""How GPUs are cleaned, on its page: operators change it, auditors read it."""

from __future__ import annotations

from html import unescape

import pytest
from django.urls import reverse

from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.test_pages import text_of


def test_operators_say_how_gpus_are_cleaned(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    assert "Overwritten by the host, through the card's memory window" in unescape(
        text_of(client, "gpu-models")
    )
    form = {"methods": "machine, bar", "reach": "99,5", "read_back": "sampled", "back": reverse("gpu-models")}
    answer = client.post(reverse("scrub-policy", args=[scene.model.slug]), form, follow=True)
    page = unescape(answer.content.decode())
    assert "From their next cleaning on, GPUs of A6000 are cleaned so." in page
    assert "99.5 %" in page
    scene.model.refresh_from_db()
    assert scene.model.scrub_methods == ["machine", "bar"]
    assert (scene.model.required_reach_permille, scene.model.read_back) == (995, "sampled")
    assert "How GPUs of the model are cleaned was changed" in text_of(sign_in(scene.auditor), "audit")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"reach": "all"}, "Give the reach in per cent"),
        ({"reach": "99.55"}, "Give the reach in per cent"),
        ({"reach": "0"}, "more than 0 %"),
        ({"reach": "1e9"}, "at most 100 %"),
        ({"methods": " , "}, "Name one to 8 methods"),
        ({"read_back": "never"}, "Choose what is read back"),
    ],
)
def test_a_scrub_policy_that_makes_no_sense_is_told_in_words(
    scene: Scene, sign_in: SignIn, form: dict[str, str], words: str
) -> None:
    whole = {"methods": "bar", "reach": "100", "read_back": "full", "back": reverse("gpu-models"), **form}
    answer = sign_in(scene.operator).post(reverse("scrub-policy", args=["a6000"]), whole, follow=True)
    assert words in unescape(answer.content.decode())
    scene.model.refresh_from_db()
    assert scene.model.required_reach_permille == 1000


def test_an_auditor_reads_how_gpus_are_cleaned_and_changes_nothing(scene: Scene, sign_in: SignIn) -> None:
    page = text_of(sign_in(scene.auditor), "gpu-models")
    assert "Has to be reached" in page
    assert '<form class="stack' not in page
