"""Each failure that hosts are known for is one of the campaign's faults, or is shown by a test of its own."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.agent.campaign.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
# What is seen in production, and the row of docs/failures.md that says what becomes of it.
SEEN_IN_PRODUCTION = {
    "unbind hangs": "Unbinding from a host driver never returns",
    "stuck in D3": "A card is stuck asleep in D3",
    "group not viable": "The IOMMU group is not viable",
    "reset scope crosses groups": "A reset would reach a device of another group",
    "no reset mechanism": "The card offers no way to be reset",
    "in use by driver QEMU": "Another machine uses the card",
    "not resetting active device": "A reset is asked for while the machine still runs",
    "config reads ff, FLR time-out": "Configuration space reads ones, or a reset times out",
    "stale mdev": "A mediated device was left over",
    "host crash": "The host loses its power, or the worker is killed",
    "a kernel update breaks reset": "A new kernel breaks the reset",
    "GPU errors": "The GPU reports errors (Xid 79, 119, 154)",
}


def rows() -> dict[str, tuple[str, str]]:
    """By failure: by what it is shown, and its faults in the campaign."""
    lines = (ROOT / "docs/failures.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert {len(each) for each in cells} == {4}
    return {failure: (shown, faults) for failure, _, shown, faults in cells if failure != "failure"}


def patterns(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def places(cell: str) -> list[tuple[str, str]]:
    """Files of tests, each with the name of one in it or none. `…` is the file before."""
    found: list[tuple[str, str]] = []
    for place in patterns(cell):
        file, _, test = place.partition("::")
        if file == "…":
            found.append((found[-1][0], test))
        elif file.endswith(".py"):
            found.append((file, test))
    return found


def is_there(file: str, test: str) -> bool:
    path = ROOT / "tests" / file
    return path.exists() and (not test or f"def {test}(" in path.read_text())


@pytest.mark.parametrize("failure", rows())
def test_a_failure_is_played_or_shown_by_a_test_that_is_there(failure: str) -> None:
    shown, faults = rows()[failure]
    for pattern in patterns(faults):
        assert any(fnmatchcase(fault, pattern) for fault in FAULTS), pattern
    assert patterns(faults) or faults == "no"
    shows = places(shown)
    assert shows
    assert [(file, test) for file, test in shows if not is_there(file, test)] == []


def test_no_fault_is_without_a_failure_that_says_what_becomes_of_it() -> None:
    told = [pattern for _, faults in rows().values() for pattern in patterns(faults)]
    assert {fault for fault in FAULTS if not any(fnmatchcase(fault, each) for each in told)} == set()


def test_what_is_seen_in_production_has_its_row() -> None:
    assert set(SEEN_IN_PRODUCTION.values()) - rows().keys() == set()
