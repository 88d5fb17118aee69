"""What the golden files say of passthrough, started for real: two cards in one machine, huge pages of their
node, a ROM from a file, one of two USB devices that are alike. And what every bus has to do, on a real one.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from lab.hypervisor import option_rom
from lab.hypervisor.machine import PLAIN, VirtualHypervisor
from tests.agent.bus_contract import CONTRACT
from tests.lab.carried import play
from tests.lab.workbench import TABLET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# Of 192 MiB; there are a few more on each node, so that the near one has to be chosen.
PAGES, SPARE, PAGE_KIB = 96, 8, 2048
COUNT = "/sys/devices/system/node/node{}/hugepages/hugepages-2048kB/nr_hugepages"
DISPLAY = "0x038000 0x1234"


@pytest.fixture(scope="module")
def told(workbench: VirtualHypervisor) -> dict[str, Any]:
    """What the worker reported, and what was seen from inside and of QEMU meanwhile."""
    workbench.put(option_rom.FILE, option_rom.option_rom())
    for node in (0, 1):
        workbench.run(f"echo {PAGES + SPARE} > {COUNT.format(node)}")
    return play(workbench, "variants", TABLET, "1-2")


def test_two_cards_are_in_one_machine_each_in_its_place(told: dict[str, Any]) -> None:
    assert len(set(told["gpus"])) == 2
    assert {f"0000:01:00.0 {DISPLAY}", f"0000:02:00.0 {DISPLAY}"} <= set(told["displays"])


def test_its_memory_is_huge_pages_of_the_cards_node_and_of_no_other(told: dict[str, Any]) -> None:
    assert told["qemu"] == {"policies": ["bind:0"], "page KiB": [str(PAGE_KIB)], "pages": [PAGES, 0]}


def test_the_card_that_its_operator_has_named_shows_the_rom_of_the_file_and_the_other_none(
    told: dict[str, Any],
) -> None:
    assert told["gpus"][1] == option_rom.ADDRESS
    digest = hashlib.sha256(option_rom.option_rom()).hexdigest()
    assert [line.split() for line in told["roms"]] == [[digest, "0000:02:00.0/rom"]]


def test_of_two_devices_that_are_alike_it_has_the_one_at_the_chosen_port(told: dict[str, Any]) -> None:
    assert told["plugged in"] == [[TABLET, "1-1"], [TABLET, "1-2"]]
    assert told["usb"] == ["right"]


def test_both_cards_are_clean_before_and_after(told: dict[str, Any]) -> None:
    gone, *scrubbed = told["released"]
    assert gone["type"] == "machine-gone"
    found = [*(event for intake in told["intakes"] for event in intake), *scrubbed]
    assert [(event["type"], event["evidence"]["verdict"]) for event in found] == [("scrubbed", "passed")] * 4


def test_a_real_bus_keeps_its_contract(workbench: VirtualHypervisor) -> None:
    told = play(workbench, "contract", PLAIN.functions[0])
    assert told["kept"] == [clause.__name__ for clause in CONTRACT]
    assert told["rungs"] == ["vfio-hot-reset", "bridge-reset", "sysfs-reset", "remove-rescan"]
