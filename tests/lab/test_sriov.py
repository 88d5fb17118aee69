"""Virtual functions of a real kernel, by the worker's own plans: made, leased, reset by FLR and taken away.

No emulated display has SR-IOV; an NVMe controller stands for the card. It has no memory to scrub, so what
makes a slice clean is shown on the simulated bus instead.
"""

from __future__ import annotations

from typing import Any

import pytest

from lab.hypervisor.machine import VirtualHypervisor
from tests.lab.carried import play

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def told(workbench: VirtualHypervisor) -> dict[str, Any]:
    """What the worker reported, order by order, and what was seen meanwhile."""
    return play(workbench, "slices")


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def resets(event: dict[str, Any]) -> set[tuple[str, str]]:
    return {(reset["method"], reset["scope"]) for reset in event["evidence"]["resets"]}


def test_a_card_with_virtual_functions_offers_them(told: dict[str, Any]) -> None:
    assert told["whole"] == {"refusal": "", "profiles": [["vf", 4]]}


def test_a_card_that_is_not_known_to_be_clean_is_not_divided(told: dict[str, Any]) -> None:
    (scrubbed,), (failed,) = told["intake"], told["not clean"]
    assert (scrubbed["type"], scrubbed["evidence"]["verdict"]) == ("scrubbed", "failed")
    assert (failed["type"], failed["divided"]) == ("division-failed", False)
    assert "is not known to be clean" in failed["reason"]


def test_nor_into_more_than_it_has(told: dict[str, Any]) -> None:
    (failed,) = told["too many"]
    assert (failed["type"], failed["divided"]) == ("division-failed", False)
    assert "at most 4" in failed["reason"]


def test_each_virtual_function_is_a_card_of_its_own(told: dict[str, Any]) -> None:
    (divided,), slices = told["divided"], told["slices"]
    assert divided["type"] == "divided"
    assert divided["slices"] == [each["address"] for each in slices]
    assert len({each["group"] for each in slices}) == 4
    assert [(each["refusal"], each["drivers"]) for each in slices] == [("", [])] * 4
    assert told["divided card"] == "It is divided into 4 slices."


def test_what_a_reboot_takes_away_is_made_again(told: dict[str, Any]) -> None:
    assert told["after a reboot"] == told["divided"][0]["slices"]


def test_one_is_reset_by_flr_alone(told: dict[str, Any]) -> None:
    assert [(each["resets"], each["by"]) for each in told["slices"]] == [(["sysfs-reset"], ["flr"])] * 4
    (intake,) = told["intake of a slice"]
    assert resets(intake) == {("sysfs-reset", "function")}
    assert told["bound"] == [True, False, False, False]


def test_ones_in_its_configuration_are_no_sign_of_death(told: dict[str, Any]) -> None:
    assert {each["ids in its configuration"] for each in told["slices"]} == {"ffffffff"}
    assert told["dead"] == ""


def test_a_machine_has_one_and_nobody_touches_it_meanwhile(told: dict[str, Any]) -> None:
    assert told["in the guest"] == "0x010802"
    assert told["holders"] == ["qemu-system-x86"]
    assert "is in use by the machine lease-1" in told["reset while used"]
    (refused,) = told["undivided while used"]
    assert (refused["type"], "is leased to" in refused["reason"]) == ("refused", True)


def test_its_release_resets_it_and_what_nothing_proves_clean_is_not(told: dict[str, Any]) -> None:
    gone, scrubbed = told["released"]
    assert kinds([gone, scrubbed]) == ["machine-gone", "scrubbed"]
    assert resets(scrubbed) == {("sysfs-reset", "function")}
    assert scrubbed["evidence"]["verdict"] == "failed"


def test_the_card_is_whole_again(told: dict[str, Any]) -> None:
    assert kinds(told["undivided"]) == ["undivided"]
    assert told["after"] == {"slices": [], "functions": "0", "refusal": ""}
    assert told["whole again"]


def test_a_rung_that_the_kernel_refuses_leads_to_the_next(told: dict[str, Any]) -> None:
    """This card's port cannot reset what is behind it."""
    for reset in told["intake again"][0]["evidence"]["resets"]:
        assert (reset["method"], reset["attempts"]) == ("sysfs-reset", 3)
        assert [failure.partition(":")[0] for failure in reset["failures"]] == [
            "vfio-hot-reset",
            "bridge-reset",
        ]
