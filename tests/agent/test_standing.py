"""What a command that comes once more is answered: how things stand now, and no evidence of the past."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from hosts.agent.machines import StopCause
from hosts.agent.orders import order
from hosts.agent.vigil import note_stops
from hosts.protocol.messages import (
    Event,
    GpuReset,
    Intake,
    MachineRunning,
    MachineStopped,
    Ordered,
    Scrubbed,
    ScrubPolicy,
    StepReport,
)
from tests.agent.host_in_a_box import Box, a_box, gpu_order

LEASE = "lease:1"
LEASE_ID = UUID(int=1)
GPU = gpu_order()
SUBJECT = f"gpu:{GPU.gpu_id}"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        yield box


def repeated(box: Box, envelope: str) -> list[Event]:
    """What is reported when the command comes once more."""
    before = len(box.reports())
    box.acceptance.deliver(envelope)
    return [report.event for report in box.reports()[before:] if not isinstance(report.event, StepReport)]


def intake(box: Box) -> str:
    envelope = box.deliver(Intake(gpu=GPU, scrub=ScrubPolicy()), subject=SUBJECT)
    box.settle()
    return envelope


def test_the_answer_is_repeated_as_long_as_it_stands(box: Box) -> None:
    (again,) = repeated(box, intake(box))
    assert again == box.last(Scrubbed)


def test_evidence_is_not_repeated_once_a_reset_was_ordered_on_the_host(box: Box) -> None:
    """The portal would take it for the evidence of what came after."""
    envelope = intake(box)
    order(box.rig, "reset", GPU.address, by="an operator")
    box.settle()
    (again,) = repeated(box, envelope)
    assert isinstance(again, GpuReset)


def test_evidence_is_not_repeated_while_a_scrub_that_was_ordered_on_the_host_runs(box: Box) -> None:
    envelope = intake(box)
    box.executor.stop(seconds=5)
    order(box.rig, "scrub", GPU.address, by="an operator")
    (again,) = repeated(box, envelope)
    assert isinstance(again, Ordered)


def test_evidence_of_a_release_is_not_repeated_while_an_intake_runs(tmp_path: Path) -> None:
    answers: list[list[Event]] = []

    def repeat(boundary: str) -> None:
        if boundary == "intake:fill:before" and released:
            answers.append(repeated(box, released[0]))

    released: list[str] = []
    with a_box(tmp_path, on_boundary=repeat) as box:
        box.carry_out(box.provision(box.intake()), subject=LEASE)
        released.append(box.deliver(box.release(), subject=LEASE))
        box.settle()
        assert isinstance(repeated(box, released[0])[0], Scrubbed)
        intake(box)
        assert answers == [[]]


def test_a_machine_that_stopped_by_itself_is_not_said_to_run(box: Box) -> None:
    box.intake()
    envelope = box.deliver(box.provision(), subject=LEASE)
    box.settle()
    assert repeated(box, envelope) == [MachineRunning(lease_id=LEASE_ID)]
    box.machines.stop_by_itself("lease-1", StopCause.GUEST)
    note_stops(box.rig, stopped_by_guest={"lease-1"})
    assert repeated(box, envelope) == [MachineStopped(lease_id=LEASE_ID, cause="guest")]
