"""Scrubs and resets that somebody on the host orders: journalled, reported, and never a short cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from hosts.agent.bar import BarScrubber
from hosts.agent.cli import tables
from hosts.agent.machines import MachineFacts, MachineState
from hosts.agent.orders import OrderRefused, follow, order
from hosts.agent.scrubber import Outcome, Workplace
from hosts.agent.simulated import Fault, inject, memory_file
from hosts.agent.standing import status
from hosts.protocol.messages import GpuFailed, GpuReset, Intake, Ordered, Scrubbed, ScrubPolicy, ScrubStarted
from tests.agent.host_in_a_box import Box, a_box, gpu_order

ADDRESS = gpu_order().address


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A host whose first GPU is clean, and which speaks with a portal of the present version."""
    with a_box(tmp_path) as box:
        box.intake()
        yield box


def carry_out(box: Box, action: Any, address: str = ADDRESS) -> dict[str, Any]:
    """The outcome of an order."""
    *steps, last = follow(box.rig, order(box.rig, action, address, by="oskar"))
    assert all(line.keys() in ({"step"}, {"progress"}) for line in steps)
    done: dict[str, Any] = last["done"]
    return done


def kinds_since_the_order(box: Box) -> list[str]:
    names = [type(report.event).__name__ for report in box.reports()]
    return [name for name in names[names.index("Ordered") :] if name != "StepReport"]


def test_a_scrub_is_reported_from_the_order_to_the_evidence(box: Box) -> None:
    memory = memory_file(box.bus_directory, ADDRESS)
    memory.write_bytes(b"left by somebody".ljust(memory.stat().st_size, b"\x01"))
    done = carry_out(box, "scrub")
    assert (done["state"], done["gpu_state"], done["in_order"]) == ("done", "clean", True)
    assert kinds_since_the_order(box) == ["Ordered", "ScrubStarted", "Scrubbed"]
    assert box.last(Ordered) == Ordered(gpu_id=gpu_order().gpu_id, tenure=1, action="scrub", by="oskar")
    assert box.last(Scrubbed).lease_id is None
    assert set(memory.read_bytes()) == {0}


def test_how_far_a_scrub_has_come_is_shown_while_it_runs(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    run = BarScrubber.run

    def look_meanwhile(scrubber: BarScrubber, place: Workplace) -> Outcome:
        place.progress(3, 8)
        shown.append(tables.show_status(status(box.rig)))
        return run(scrubber, place)

    monkeypatch.setattr(BarScrubber, "run", look_meanwhile)
    plan_id = order(box.rig, "scrub", ADDRESS, by="oskar")
    box.settle()
    assert "fill 37 %" in shown[0]
    assert box.rig.plans.percent(plan_id) is None


def test_whoever_follows_a_scrub_is_told_how_far_each_step_has_come(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hosts.agent.orders.FOLLOW_SECONDS", 0.0005)
    heard = threading.Semaphore(0)
    note = box.rig.plans.note_progress

    def note_and_wait(plan_id: int, done: int, total: int) -> None:
        note(plan_id, done, total)
        assert heard.acquire(timeout=10)

    monkeypatch.setattr(box.rig.plans, "note_progress", note_and_wait)
    size = memory_file(box.bus_directory, ADDRESS).stat().st_size
    monkeypatch.setattr("hosts.agent.bar.CHUNK", size // 4)
    monkeypatch.setattr("hosts.agent.witness.STRIDE", size // 2)
    told: dict[str, list[int]] = {}
    for line in follow(box.rig, order(box.rig, "scrub", ADDRESS, by="oskar")):
        if "step" in line:
            step = line["step"]["name"]
        if "progress" in line:
            done, total = line["progress"]
            told.setdefault(step, []).append(100 * done // total)
            heard.release()
    assert told == {"fill": [25, 50, 75, 100], "verify": [50, 100]}


def test_a_scrub_that_does_not_pass_says_why(box: Box) -> None:
    inject(box.bus_directory, Fault(operation="memory", address=ADDRESS, kind="stuck", times=0))
    done = carry_out(box, "scrub")
    assert (done["gpu_state"], done["in_order"]) == ("quarantined", False)
    assert any("canaries could not be written" in reason for reason in done["reasons"])


def test_a_reset_makes_nothing_clean(box: Box) -> None:
    done = carry_out(box, "reset")
    assert (done["gpu_state"], done["in_order"]) == ("dirty", True)
    assert kinds_since_the_order(box) == ["Ordered", "GpuReset"]
    assert box.last(GpuReset).record.method == "vfio-hot-reset"
    assert len(box.events(ScrubStarted)) == 1


def test_a_reset_that_fails_quarantines(box: Box) -> None:
    inject(box.bus_directory, Fault(operation="reset", address=ADDRESS, times=0))
    done = carry_out(box, "reset")
    assert (done["state"], done["gpu_state"], done["in_order"]) == ("failed", "quarantined", False)
    assert "Input/output error" in done["reasons"][0]
    assert box.last(GpuFailed).step == "reset"


def test_a_quarantined_card_may_be_reset_but_comes_back_by_the_portal_alone(box: Box) -> None:
    box.rig.gpus.set_state(gpu_order().gpu_id, "quarantined")
    with pytest.raises(OrderRefused, match="quarantined") as refused:
        order(box.rig, "scrub", ADDRESS, by="oskar")
    assert "Try intake again" in refused.value.hint
    assert carry_out(box, "reset")["gpu_state"] == "quarantined"


def test_a_leased_gpu_is_left_alone(box: Box) -> None:
    box.carry_out(box.provision(), subject="lease:1")
    for action in ("scrub", "reset"):
        with pytest.raises(OrderRefused, match="is leased to") as refused:
            order(box.rig, action, ADDRESS, by="oskar")
        assert refused.value.hint
    assert not box.events(Ordered)
    assert box.gpu_state() == "leased"


def test_a_card_in_a_strangers_machine_is_left_alone(box: Box) -> None:
    stranger = MachineFacts(
        name="stranger",
        uuid=UUID(int=9),
        state=MachineState.RUNNING,
        lease_id=None,
        generation=None,
        pci_addresses=frozenset({ADDRESS}),
    )
    box.machines.add_foreign("stranger", stranger)
    with pytest.raises(OrderRefused, match="in use by the machine stranger"):
        order(box.rig, "reset", ADDRESS, by="oskar")


def test_a_card_that_is_worked_on_is_left_alone(tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait(boundary: str) -> None:
        if boundary == "scrub:reset:before":
            inside.set()
            go_on.wait(20)

    with a_box(tmp_path, on_boundary=wait) as box:
        box.intake()
        first = order(box.rig, "scrub", ADDRESS, by="oskar")
        assert inside.wait(20)
        with pytest.raises(OrderRefused, match=rf"plan {first} \(scrub\)"):
            order(box.rig, "reset", ADDRESS, by="oskar")
        go_on.set()
        box.settle()
        assert box.gpu_state() == "clean"


@pytest.mark.parametrize(
    ("address", "told"), [("0000:99:00.0", "No display-class card"), (gpu_order(3).address, "not in service")]
)
def test_what_is_no_gpu_of_ours_is_not_touched(box: Box, address: str, told: str) -> None:
    with pytest.raises(OrderRefused, match=told) as refused:
        order(box.rig, "scrub", address, by="oskar")
    assert refused.value.hint


def test_cards_that_were_exchanged_are_for_the_portal(box: Box) -> None:
    other = Intake(gpu=gpu_order(1), scrub=ScrubPolicy())
    box.carry_out(other, subject="gpu:1")
    with box.rig.journal.transaction():
        box.rig.journal.execute("UPDATE gpu SET address = ?", ADDRESS)
    with pytest.raises(OrderRefused, match="exchanged"):
        order(box.rig, "scrub", ADDRESS, by="oskar")


def test_the_policy_is_that_of_the_last_order(box: Box) -> None:
    policy = ScrubPolicy(scrubber="bar", required_reach_permille=700)
    box.carry_out(Intake(gpu=gpu_order(), scrub=policy), subject=f"gpu:{gpu_order().gpu_id}")
    carry_out(box, "reset")
    plan = box.rig.plans.get(order(box.rig, "scrub", ADDRESS, by="oskar"))
    assert isinstance(plan.goal, Intake)
    assert plan.goal.scrub == policy
    box.settle()


def test_without_a_policy_nothing_is_scrubbed(box: Box) -> None:
    with box.rig.journal.transaction():
        box.rig.journal.execute("DELETE FROM plan")
    with pytest.raises(OrderRefused, match="not known here any more"):
        order(box.rig, "scrub", ADDRESS, by="oskar")


def test_an_order_survives_a_crash_in_the_middle(tmp_path: Path) -> None:
    with a_box(tmp_path) as box:
        box.intake()
        box.executor.stop(seconds=20)
        order(box.rig, "scrub", ADDRESS, by="oskar")
        assert box.gpu_state() == "dirty"
        box.restart()
        box.settle()
        assert box.gpu_state() == "clean"
        assert len(box.events(Scrubbed)) == 2
