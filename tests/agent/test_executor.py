"""Plans under unusual conditions: overtaken at any moment, broken, or without a journal to write to."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hosts.agent.executor import Executor
from hosts.agent.host_plans import PLAN_KINDS
from hosts.agent.machine_plans import PROVISION
from hosts.agent.plans import Plan
from hosts.agent.simulated import Fault, inject
from hosts.agent.spool import Origin
from hosts.agent.steps import PlanKind, Step
from hosts.agent.watch import Watch
from hosts.protocol.messages import Event, GpuFailed, MachineGone, MachineRunning, ProvisionFailed, StepReport
from tests.agent.host_in_a_box import Box, a_box, gpu_order, wait_for

LEASE = "lease:1"
MOMENTS = [f"{step.name}:{moment}" for step in PROVISION.steps for moment in ("before", "after")]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_release_overtakes_a_provision_at_any_moment(tmp_path: Path, moment: str) -> None:
    order: list[str] = []

    def release_now(boundary: str) -> None:
        order.append(boundary)
        if boundary == f"provision:{moment}":
            host.deliver(host.release(), subject=LEASE)

    with a_box(tmp_path, on_boundary=release_now) as host:
        host.carry_out(host.provision(host.intake()), subject=LEASE)
        assert host.last(MachineGone).lease_id.int == 1
        assert host.machines.machines() == []
        assert host.gpu_state() == "clean"
        began = [each for each in order if each.startswith(("provision", "release"))]
        assert began == sorted(began, key=lambda each: each.startswith("release"))


def test_a_step_that_is_about_to_run_keeps_its_locks_when_it_is_overtaken(tmp_path: Path) -> None:
    """The release is accepted between the look at the plan and its first step, and waits for that step."""
    released, overlapped = threading.Event(), []

    def look_for_release(boundary: str) -> None:
        if boundary == "release:close:before":
            released.set()
        elif boundary == "provision:identify:before":
            overlapped.append(released.wait(0.5))

    with a_box(tmp_path, on_boundary=look_for_release) as host:
        order, attempt = host.intake(), host.executor.runner._attempt

        def attempt_late(plan: Plan, kind: PlanKind, step: Step) -> Plan:
            if step.name == "identify":
                host.deliver(host.release(), subject=LEASE)
            return attempt(plan, kind, step)

        host.executor.runner._attempt = attempt_late  # type: ignore[method-assign]
        host.carry_out(host.provision(order), subject=LEASE)
        assert overlapped == [False]
        assert host.gpu_state() == "clean"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.close()


def break_provision(box: Box, **broken: Any) -> None:
    """Carry plans out with a provision whose end is broken."""
    kinds = {**PLAN_KINDS, "provision": replace(PROVISION, **broken)}
    box.executor = Executor(box.rig, kinds)
    box.executor.start()


def fail_unexpectedly(*_: object) -> None:
    raise ValueError("unexpected")


def test_a_plan_whose_end_cannot_be_written_fails(box: Box) -> None:
    break_provision(box, finish=fail_unexpectedly)
    box.carry_out(box.provision(box.intake()), subject=LEASE)
    assert box.last(ProvisionFailed).reason == "unexpected"
    box.carry_out(box.release(), subject=LEASE)
    assert box.gpu_state() == "clean"


def test_a_plan_whose_failure_cannot_be_written_gives_up_its_locks_and_says_so(box: Box) -> None:
    break_provision(box, finish=fail_unexpectedly, fail=fail_unexpectedly)
    box.carry_out(box.provision(box.intake()), subject=LEASE)
    assert "given up" in box.last(StepReport).detail
    box.carry_out(box.release(), subject=LEASE)
    assert box.gpu_state() == "clean"


def test_a_failure_that_can_be_written_at_the_second_attempt_is_told(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full for a moment. The portal must not have to wait for what it will never hear."""
    break_provision(box, finish=fail_unexpectedly)
    order, report, full = box.intake(), box.rig.spool.add, [True]

    def add(event: Event, origin: Origin) -> int:
        if isinstance(event, ProvisionFailed) and full.pop():
            full.append(False)
            raise sqlite3.OperationalError("database or disk is full")
        return report(event, origin)

    monkeypatch.setattr(box.rig.spool, "add", add)
    box.carry_out(box.provision(order), subject=LEASE)
    assert "given up: database or disk is full" in box.last(ProvisionFailed).reason


def test_a_journal_that_cannot_be_written_ends_the_worker(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    died = threading.Event()
    box.executor = Executor(box.rig, PLAN_KINDS, on_death=died.set)
    box.start()
    order = box.intake()

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(box.rig.plans, "begin_step", full)
    monkeypatch.setattr(box.rig.plans, "set_state", full)
    box.deliver(box.provision(order), subject=LEASE)
    assert died.wait(5)
    monkeypatch.undo()
    box.restart()
    box.settle()
    assert box.last(MachineRunning).lease_id.int == 1


@pytest.mark.parametrize("step", [step.name for step in PLAN_KINDS["scrub"].steps])
def test_a_card_that_vanishes_during_a_scrub_is_missing(tmp_path: Path, step: str) -> None:
    def vanish(boundary: str) -> None:
        if boundary == f"scrub:{step}:before":
            inject(host.bus_directory, Fault(operation="card", address=order.address, kind="vanish"))

    with a_box(tmp_path, on_boundary=vanish) as host:
        order = host.intake()
        host.carry_out(host.release(order), subject=LEASE)
        assert host.last(GpuFailed).missing
        assert host.gpu_state() == "missing"
        host.intake(1)


def test_a_hanging_card_leaves_the_others_working(tmp_path: Path) -> None:
    with a_box(tmp_path) as host:
        host.intake(1)
        hang = Fault(operation="reset", address=host.intake().address, kind="hang", seconds=2)
        inject(host.bus_directory, hang)
        host.deliver(host.release(), subject=LEASE)
        wait_for(lambda: host.gpu_state() == "scrubbing")
        Watch(host.rig).look()
        host.deliver(host.provision(gpu_order(1), lease=2), subject="lease:2")
        wait_for(lambda: host.events(MachineRunning))
        assert host.gpu_state() == "scrubbing"
        host.settle()
        assert host.gpu_state() == "quarantined"
