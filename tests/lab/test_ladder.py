"""The reset ladder on a real kernel, rung by rung, on a card of two functions: its `reset_method` is stale.

No worker has it yet. Afterwards it is on its host's driver again, where that of the story finds it.
"""

from __future__ import annotations

from typing import Any

import pytest

from lab.hypervisor.machine import WITH_AUDIO, VirtualHypervisor
from tests.lab.carried import play

pytestmark = pytest.mark.timeout(900)  # whoever comes first boots the hypervisor
ALONE = "sysfs-reset"  # which takes a function that has its bus to itself


@pytest.fixture(scope="module")
def rungs(hypervisor: VirtualHypervisor) -> dict[str, dict[str, Any]]:
    """What each has left of the card, by its name."""
    told = play(hypervisor, "ladder", WITH_AUDIO.functions[0])
    return {rung["method"]: rung for rung in told["rungs"]}


def test_every_rung_but_one_resets_the_whole_card(rungs: dict[str, dict[str, Any]]) -> None:
    assert [*rungs] == ["vfio-hot-reset", "bridge-reset", ALONE, "remove-rescan"]
    assert {name for name, rung in rungs.items() if rung["before"] and not rung["after"]} == {*rungs} - {
        ALONE
    }


def test_the_one_that_cannot_says_so_although_the_kernel_has_promised_it(
    rungs: dict[str, dict[str, Any]],
) -> None:
    assert {name for name, rung in rungs.items() if rung["failure"]} == {ALONE}
    assert "Inappropriate ioctl" in rungs[ALONE]["failure"]


def test_after_each_of_them_both_functions_are_in_vfios_hands(rungs: dict[str, dict[str, Any]]) -> None:
    assert all(rung["bound"] for rung in rungs.values())


def test_only_the_last_one_takes_the_card_off_the_bus(rungs: dict[str, dict[str, Any]]) -> None:
    assert [name for name, rung in rungs.items() if rung["came back"]] == ["remove-rescan"]


@pytest.mark.usefixtures("rungs")
def test_it_goes_back_to_its_hosts_driver(hypervisor: VirtualHypervisor) -> None:
    driver = hypervisor.run(f"readlink /sys/bus/pci/devices/{WITH_AUDIO.functions[0]}/driver")
    assert driver.strip().endswith("/bochs-drm")
