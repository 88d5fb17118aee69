"""Stopping a machine: the power button first, and force for who does not obey or cannot be asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from hosts.agent.machines import MachineState, Stop, StopCause
from hosts.protocol.messages import MachineStopped, Power
from tests.agent.host_in_a_box import Box, a_box

LEASE = "lease:1"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        box.carry_out(box.provision(box.intake()), subject=LEASE)
        yield box


def causes_of_switching_off(box: Box, *, shutdown_seconds: int) -> list[StopCause]:
    seen: list[Stop] = []
    box.machines.on_stopped(seen.append)
    goal = Power(lease_id=UUID(int=1), action="off", shutdown_seconds=shutdown_seconds)
    box.carry_out(goal, subject=LEASE)
    assert box.machines.state("lease-1") is MachineState.OFF
    assert box.last(MachineStopped).cause == "command"
    return [stop.cause for stop in seen]


def test_a_guest_is_asked_first(box: Box) -> None:
    assert causes_of_switching_off(box, shutdown_seconds=30) == [StopCause.GUEST]


def test_a_guest_that_does_not_obey_is_switched_off(box: Box) -> None:
    box.machines.obeys = False
    assert causes_of_switching_off(box, shutdown_seconds=1) == [StopCause.DESTROYED]


def test_without_time_allowed_nobody_asks(box: Box) -> None:
    assert causes_of_switching_off(box, shutdown_seconds=0) == [StopCause.DESTROYED]


def test_a_power_button_that_is_broken_does_not_keep_the_machine_up(box: Box) -> None:
    box.machines.refuses = {"shutdown"}
    assert causes_of_switching_off(box, shutdown_seconds=30) == [StopCause.DESTROYED]
