"""A newer worker starts on the journal of the previous version: a lease runs, a scrub has begun."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from nacl.signing import SigningKey

from hosts.agent.domain import NAMESPACE
from hosts.agent.machines import MachineState
from hosts.protocol.messages import (
    Inspect,
    Inventory,
    MachineGone,
    MachineStopped,
    Power,
    Scrubbed,
    ScrubStarted,
    StepReport,
)
from tests.agent.host_in_a_box import Box, gpu_order

RECORDED = Path(__file__).with_name("golden") / "protocol-1" / "journal.sql"
THEN = datetime(2026, 3, 2, 9, 31, tzinfo=UTC)
RUNNING = UUID(int=1)


def recorded_host(directory: Path) -> Box:
    """The host of which the journal was recorded, before its new worker starts."""
    box = Box(directory)
    box.close()
    path = box.config.journal_path
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    with sqlite3.connect(path) as journal:
        journal.executescript(RECORDED.read_text())
    journal.close()
    box.signing = SigningKey(b"hv1 in the days of protocol one.")
    box.control.generations.update({"lease:1": 1, "lease:2": 2})
    box.now = THEN
    box.open()
    return box


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """Lease 1 runs on the first GPU; the second was being scrubbed, and its memory had not been filled."""
    box = recorded_host(tmp_path)
    for number in (0, 1, 2):
        box.rig.bus.bind(box.rig.bus.card(gpu_order(number).address))
    box.machines.define(machine_xml())
    box.machines.start("lease-1")
    box.start()
    yield box
    box.close()


def machine_xml() -> str:
    """As much of the machine's definition as says whose it is."""
    return (
        f"<domain type='qemu'><name>lease-1</name><uuid>{RUNNING}</uuid><metadata>"
        f"<lease xmlns='{NAMESPACE}' id='{RUNNING}' generation='1'/>"
        "</metadata></domain>"
    )


def test_the_machine_runs_on_and_obeys(box: Box) -> None:
    box.settle()
    machine = box.rig.machines.get(RUNNING)
    assert machine is not None
    assert (machine.state, box.gpu_state(0)) == ("on", "leased")
    assert not box.events(MachineStopped)
    assert box.machines.creations["lease-1"] == 1
    box.carry_out(Power(lease_id=RUNNING, action="off", shutdown_seconds=0), subject="lease:1")
    assert box.machines.state("lease-1") is MachineState.OFF
    box.carry_out(box.release(gpu_order(0)), subject="lease:1")
    assert box.last(MachineGone).lease_id == RUNNING
    assert box.gpu_state(0) == "clean"


def test_the_scrub_goes_on_with_canaries_of_its_own(box: Box) -> None:
    box.settle()
    begun = [each.step for each in box.events(StepReport) if each.plan == "scrub" and each.state == "started"]
    assert begun[begun.index("fill") :] == ["fill", "plant", "fill", "verify", "reset-again", "compare"]
    assert box.last(Scrubbed).evidence.verdict == "passed"
    assert len(box.events(ScrubStarted)) == 1
    assert [box.gpu_state(number) for number in (0, 1, 2)] == ["leased", "clean", "clean"]


def test_the_portal_is_spoken_to_as_it_speaks(box: Box) -> None:
    box.settle()
    assert {each.protocol for each in box.reports()} == {1}
    box.carry_out(Inspect(), subject="host:box")
    latest = box.reports()[-1]
    assert isinstance(latest.event, Inventory | StepReport)
    assert latest.protocol == 2
