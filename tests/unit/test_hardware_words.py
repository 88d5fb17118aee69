"""What is kept in English of hardware is read in Chinese: each sentence that the judge can say."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.utils import translation

from hosts.protocol.findings import TOPICS
from leasing.reasons import because
from portal.pages.hardware_words import in_ones_own_words
from tests.unit.test_proof import FLAWS, METHOD_FLAWS, WITNESS_FLAWS

Flaws = dict[str, tuple[dict[str, Any], str]]
JUDGED = [reason for flaws in (FLAWS, METHOD_FLAWS, WITNESS_FLAWS) for _change, reason in flaws.values()]
# A method's own words, behind its name.
FREE = "bar: no answer"
LATIN = re.compile(r"[a-z]+ [a-z]+ [a-z]+")


def chinese(text: str) -> str:
    with translation.override("zh-hans"):
        return in_ones_own_words(text)


@pytest.mark.parametrize("reason", [each for each in JUDGED if each != FREE])
def test_every_objection_is_said_with_its_facts(reason: str) -> None:
    said = chinese(reason)
    assert not LATIN.search(said)
    assert all(fact in said for fact in re.findall(r"\d+|'\w+'", reason))


def test_sentences_are_said_one_after_the_other_and_what_is_not_known_stays() -> None:
    said = chinese("3 of 32 canaries survived the scrub. Somebody spilt coffee. 24 blocks are not zero.")
    assert "Somebody spilt coffee." in said
    assert "3" in said.partition("Somebody")[0]
    assert "24" in said.partition("coffee.")[2]
    assert not LATIN.search(said.replace("Somebody spilt coffee", ""))
    assert chinese("fan is loud; part ordered") == "fan is loud; part ordered"
    assert chinese(FREE) == FREE
    assert chinese("") == ""


def test_what_a_host_finds_and_why_a_lease_ended_too() -> None:
    shared = TOPICS["iommu-group"].outcomes["shared"]
    facts = {"group": "9", "others": "0000:42:01.0"}
    said = chinese(f"{shared.finding % facts} {shared.change % facts}")
    assert "0000:42:01.0" in said
    assert not LATIN.search(said)
    failed = because("gpu-failed", reason="The memory was not read back.").in_english()
    assert not LATIN.search(chinese(failed))
    assert "Ada Lindqvist" in chinese(because("ended-by", person="Ada Lindqvist").in_english())
    assert "Ended" not in chinese(because("ended-by", person="Ada Lindqvist").in_english())


def test_english_is_left_alone_and_the_longest_text_ends() -> None:
    assert in_ones_own_words(JUDGED[0]) == JUDGED[0]
    assert chinese("0 of " * 400)
