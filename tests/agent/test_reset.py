"""The reset ladder: which rung is taken, what is recorded, and when to stop at once."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from hosts.agent.bus import CardBusy, ResetFailed, Wedged
from hosts.agent.reset import climb
from hosts.agent.simulated import Fault, Kind, SimulatedBus, demo_topology, inject, read_state

GPU = "0000:41:00.0"


def ticks() -> float:
    return next(_TICKS) * 1.5


_TICKS = count()


@pytest.fixture
def bus(tmp_path: Path) -> SimulatedBus:
    bus = SimulatedBus(tmp_path, demo_topology(1 << 16))
    bus.bind(bus.card(GPU))
    return bus


def fault(directory: Path, kind: Kind, **where: str) -> None:
    inject(directory, Fault(operation="reset", address=GPU, kind=kind, **where))  # type: ignore[arg-type]


def test_the_first_rung_suffices_on_a_good_day(bus: SimulatedBus) -> None:
    record = climb(bus, bus.card(GPU), clock=ticks)
    assert (record.method, record.scope, record.attempts) == ("vfio-hot-reset", "bus", 1)
    assert (record.seconds, record.failures) == (3.0, ())


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_the_next_rung_is_taken_after_each_failure(bus: SimulatedBus, tmp_path: Path, failures: int) -> None:
    inject(tmp_path, Fault(operation="reset", address=GPU, times=failures))
    methods = [rung.method for rung in bus.reset_rungs(bus.card(GPU))]
    record = climb(bus, bus.card(GPU), clock=ticks)
    assert (record.method, record.attempts) == (methods[failures], failures + 1)
    assert [failure.partition(":")[0] for failure in record.failures] == methods[:failures]


def test_when_no_rung_works_every_failure_is_told(bus: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="reset", address=GPU, times=0))
    with pytest.raises(ResetFailed, match="power cycle") as caught:
        climb(bus, bus.card(GPU), clock=ticks)
    assert all(rung.method in str(caught.value) for rung in bus.reset_rungs(bus.card(GPU)))


def test_a_hanging_kernel_ends_the_climb(bus: SimulatedBus, tmp_path: Path) -> None:
    fault(tmp_path, "hang")
    with pytest.raises(Wedged):
        climb(bus, bus.card(GPU), clock=ticks)
    assert read_state(tmp_path).cards[GPU].resets == 0


def test_a_card_that_is_open_is_not_reset(bus: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="holders", address=GPU, kind="busy"))
    with pytest.raises(CardBusy, match="has it open"):
        climb(bus, bus.card(GPU), clock=ticks)
    assert read_state(tmp_path).cards[GPU].resets == 0


def test_a_reset_after_which_the_card_is_silent_does_not_count(bus: SimulatedBus, tmp_path: Path) -> None:
    pauses: list[float] = []
    inject(tmp_path, Fault(operation="config", address=GPU, times=4))  # for longer than it may take
    record = climb(bus, bus.card(GPU), clock=ticks, sleep=pauses.append)
    told = "vfio-hot-reset: it is dead afterwards: configuration space does not answer."
    assert record.failures == (told,)
    assert record.method == "bridge-reset"
    assert pauses == [0.1] * 3


def test_a_card_may_need_a_moment_before_it_answers(bus: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="config", address=GPU, times=3))
    record = climb(bus, bus.card(GPU), clock=ticks, sleep=lambda seconds: None)
    assert (record.method, record.failures) == ("vfio-hot-reset", ())


def test_a_card_that_vanishes_cannot_be_reset(bus: SimulatedBus, tmp_path: Path) -> None:
    card = bus.card(GPU)
    fault(tmp_path, "vanish")
    with pytest.raises(ResetFailed, match="No display-class card"):
        climb(bus, card, clock=ticks)


def test_a_rung_that_loses_the_driver_does_not_count(
    bus: SimulatedBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(bus, "is_bound", lambda card: next(answers))
    record = climb(bus, bus.card(GPU), clock=ticks)
    assert record.failures == ("vfio-hot-reset: it is no longer in VFIO's hands afterwards.",)
