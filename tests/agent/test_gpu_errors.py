"""Errors of GPUs in the guest's log: asked for where that is allowed, told once, as the guest's word."""

from __future__ import annotations

import base64
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from hosts.agent.gpu_errors import LARGEST_OUTPUT, LONGEST_TEXT, MOST_ERRORS, read_lines
from hosts.agent.machines import HypervisorError
from hosts.protocol.messages import GuestErrors
from tests.agent.host_in_a_box import Box, a_box, gpu_order
from tests.agent.test_guests import MACHINE, SUBJECT, FakeAgent, Watching, polite

FALLEN = "[   12.5] NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', GPU has fallen off the bus."
OTHER = "NVRM: Xid (PCI:00000000:02:00): 13, Graphics Exception"


def encoded(*lines: str) -> str:
    return base64.b64encode("\n".join(lines).encode()).decode()


def agent(*lines: str) -> FakeAgent:
    status = {"exited": True, "exitcode": 0, "out-data": encoded(*lines)}
    return FakeAgent(**{**polite().answers, "guest-exec": {"pid": 7}, "guest-exec-status": status})


def willing_box(directory: Path, **settings: Any) -> AbstractContextManager[Box]:
    return a_box(directory, **{"read_gpu_errors": True, **settings})


def started(box: Box) -> Watching:
    box.carry_out(box.provision(box.intake(0), box.intake(1)), subject=SUBJECT)
    return Watching(box)


def told(box: Box) -> list[tuple[int, UUID | None]]:
    return [(error.code, error.gpu_id) for event in box.events(GuestErrors) for error in event.errors]


def test_each_error_is_told_once_for_each_gpu(tmp_path: Path) -> None:
    with willing_box(tmp_path) as box:
        watching = started(box)
        box.machines.agents[MACHINE] = agent(FALLEN, FALLEN, OTHER, OTHER.replace("02:", "09:"))
        for _round in range(4):
            watching.look()
        assert told(box) == [(79, gpu_order(0).gpu_id), (13, gpu_order(1).gpu_id), (13, None)]
        assert box.last(GuestErrors).errors[0].text.startswith("NVRM: Xid (PCI:0000:01:00): 79")
        box.restart()
        again = Watching(box)
        for _round in range(2):
            again.look()
        assert len(told(box)) == 3


def test_nobody_is_made_to_run_anything_unless_the_operator_says_so(tmp_path: Path) -> None:
    with willing_box(tmp_path, read_gpu_errors=False) as box:
        watching = started(box)
        box.machines.agents[MACHINE] = asked = agent(FALLEN)
        watching.look()
        watching.look()
        assert not [command for command in asked.asked if "exec" in command]


def test_an_image_that_does_not_permit_it_is_asked_once(tmp_path: Path) -> None:
    with willing_box(tmp_path) as box:
        watching = started(box)
        box.machines.agents[MACHINE] = refusing = agent(FALLEN)
        refusing.answers["guest-exec"] = HypervisorError("Command guest-exec has been disabled")
        for _round in range(3):
            watching.look()
        assert refusing.asked.count("guest-exec") == 1
        assert told(box) == []


def test_a_guest_that_makes_up_errors_without_end_is_heard_so_far(tmp_path: Path) -> None:
    with willing_box(tmp_path) as box:
        watching = started(box)
        box.machines.agents[MACHINE] = agent(*(FALLEN.replace(" 79,", f" {code},") for code in range(1, 99)))
        for _round in range(3):
            watching.look()
        assert len(told(box)) == MOST_ERRORS


NONE = [
    "",
    "not base64 \u2028",
    encoded("NVRM: Xid (PCI:0000:01:00): 0, x"),
    encoded("NVRM: Xid"),
    "A" * 10**6,
]


@pytest.mark.parametrize("output", NONE)
def test_what_is_no_error_is_none(output: str) -> None:
    assert list(read_lines(output)) == []


def test_lines_are_cut_and_cleaned() -> None:
    (line,) = read_lines(encoded(FALLEN + "\x1b[2J\u202e" + "x" * LARGEST_OUTPUT))
    assert len(line.text) <= LONGEST_TEXT
    assert line.text.isprintable()
