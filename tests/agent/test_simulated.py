"""The simulated bus: it outlives its process, is seen by a second one, and fails on request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hosts.agent.bus import BusError, CardBusy, CardMissing, ResetFailed, Wedged
from hosts.agent.reset import climb
from hosts.agent.simulated import (
    RESIDUE,
    Fault,
    Kind,
    SimulatedBus,
    SimulatedCard,
    clear_faults,
    demo_topology,
    inject,
    memory_file,
    read_state,
    reboot,
)
from hosts.protocol.messages import Fingerprint
from hosts.protocol.proof import fingerprint_changes
from tests.agent.bus_contract import scrub_now

GPU = "0000:41:00.0"
OTHER = "0000:51:00.0"


def clock() -> float:
    return 0.0


@pytest.fixture
def bus(tmp_path: Path) -> SimulatedBus:
    return SimulatedBus(tmp_path, demo_topology(1 << 20))


@pytest.fixture
def bound(bus: SimulatedBus) -> SimulatedBus:
    bus.bind(bus.card(GPU))
    return bus


def test_the_demo_has_four_gpus_of_two_models_on_two_nodes(tmp_path: Path) -> None:
    cards = SimulatedBus(tmp_path).cards()
    assert [card.name for card in cards] == ["Simulated A6000"] * 2 + ["Simulated L40"] * 2
    assert [card.numa_node for card in cards] == [0, 1, 0, 1]
    assert {card.memory_bytes for card in cards} == {64 << 20}
    assert len({card.fingerprint.serial for card in cards}) == 4
    assert len({card.iommu_group for card in cards}) == 4


def test_identities_are_stable_across_installations(tmp_path: Path) -> None:
    first, second = (SimulatedBus(tmp_path / name).cards() for name in "ab")
    assert first == second


def test_a_second_start_keeps_state_and_topology(bound: SimulatedBus, tmp_path: Path) -> None:
    again = SimulatedBus(tmp_path)
    assert again.cards() == bound.cards()
    assert again.is_bound(again.card(GPU))
    assert not again.is_bound(again.card(OTHER))


def test_state_survives_a_killed_process(bus: SimulatedBus, tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from hosts.agent.simulated import SimulatedBus
bus = SimulatedBus(Path({str(tmp_path)!r}))
card = bus.card({GPU!r})
bus.bind(card)
with bus.memory(card) as window:
    window.fill(7, 6, b"secret")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    root = str(Path(__file__).parents[2])
    ended = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": root})
    assert ended.returncode == -signal.SIGKILL
    card = bus.card(GPU)
    assert bus.is_bound(card)
    with bus.memory(card) as window:
        assert window.read(7, 6) == b"secret"


def test_memory_is_sparse(tmp_path: Path) -> None:
    SimulatedBus(tmp_path, demo_topology(1 << 34))
    assert memory_file(tmp_path, GPU).stat().st_size == 1 << 34
    assert memory_file(tmp_path, GPU).stat().st_blocks == 0


def test_changes_of_two_threads_are_both_kept(bus: SimulatedBus, tmp_path: Path) -> None:
    fault = Fault(operation="holders", address=OTHER, kind="busy", times=1)
    threads = [threading.Thread(target=inject, args=(tmp_path, fault)) for _ in range(8)]
    for thread in threads:
        thread.start()
    bus.bind(bus.card(GPU))
    for thread in threads:
        thread.join()
    assert len(read_state(tmp_path).faults) == 8
    assert bus.is_bound(bus.card(GPU))


def test_a_machine_leaves_residue_which_a_scrub_removes(bound: SimulatedBus, tmp_path: Path) -> None:
    card = bound.card(GPU)
    port, display = bound.gpu_fragments(card, slot=1)
    assert (port.tag, display.tag) == ("controller", "video")
    assert memory_file(tmp_path, GPU).read_bytes().startswith(RESIDUE + b"tenant 1 of 0000:41:00.0")
    climb(bound, card, clock=clock)
    assert RESIDUE in memory_file(tmp_path, GPU).read_bytes()
    assert scrub_now(bound, GPU).verdict == "passed"
    assert not memory_file(tmp_path, GPU).read_bytes().strip(b"\0")


def test_memory_of_a_card_on_its_host_driver_cannot_be_mapped(bus: SimulatedBus) -> None:
    with pytest.raises(BusError, match="a driver has claimed it"), bus.memory(bus.card(GPU)):
        pass


def test_a_refused_card_is_listed_and_not_bound(tmp_path: Path) -> None:
    model = SimulatedCard(
        address=GPU,
        functions=(GPU,),
        iommu_group=7,
        name="Simulated",
        memory_bytes=1 << 20,
        numa_node=-1,
        fingerprint=Fingerprint(vendor_device="1234:1111"),
        refusal="Shares IOMMU group 7 with 0000:00:05.0 (NVMe controller).",
    )
    bus = SimulatedBus(tmp_path, [model])
    (card,) = bus.cards()
    with pytest.raises(BusError, match="Shares IOMMU group 7"):
        bus.bind(card)


@pytest.mark.parametrize(
    ("kind", "failure"), [("error", BusError), ("lie", BusError), ("vanish", CardMissing)]
)
def test_a_bind_fails_as_often_as_injected(
    bus: SimulatedBus, tmp_path: Path, kind: Kind, failure: type[BusError]
) -> None:
    inject(tmp_path, Fault(operation="bind", address=GPU, kind=kind, times=2))
    card = bus.card(GPU)
    with pytest.raises(failure) as caught:
        bus.bind(card)
    assert type(caught.value) is failure
    assert read_state(tmp_path).faults[0].times == 1
    if kind != "vanish":
        with pytest.raises(failure):
            bus.bind(card)
        bus.bind(card)
        assert bus.is_bound(card)


def test_a_card_that_hangs_is_refused_until_the_host_is_rebooted(bus: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="bind", address=GPU, kind="hang"))
    card = bus.card(GPU)
    again = SimulatedBus(tmp_path)
    for each in (bus, again):
        with pytest.raises(Wedged):
            each.bind(card)
    assert again.hanging() == {GPU}
    assert GPU not in {found.address for found in again.cards()}
    reboot(tmp_path)
    bus.bind(card)
    assert bus.is_bound(card)


def test_a_fault_concerns_one_card(bus: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="bind", address=OTHER, times=0))
    bus.bind(bus.card(GPU))
    with pytest.raises(BusError):
        bus.bind(bus.card(OTHER))


def test_a_lasting_fault_lasts_until_it_is_cleared(bound: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="reset", address=GPU, times=0))
    card = bound.card(GPU)
    for _ in range(2):
        with pytest.raises(ResetFailed, match=r"vfio-hot-reset: .* remove-rescan: "):
            climb(bound, card, clock=clock)
    clear_faults(tmp_path)
    assert climb(bound, card, clock=clock).attempts == 1


def test_a_rung_can_fail_alone(bound: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="reset", address=GPU, rung="vfio-hot-reset"))
    record = climb(bound, bound.card(GPU), clock=clock)
    assert (record.method, record.attempts) == ("bridge-reset", 2)
    assert "Input/output error" in record.failures[0]


def test_only_the_sysfs_reset_knows_enotty(bound: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="reset", address=GPU, kind="enotty"))
    card = bound.card(GPU)
    assert climb(bound, card, clock=clock).method == "vfio-hot-reset"
    (rung,) = [rung for rung in bound.reset_rungs(card) if rung.method == "sysfs-reset"]
    with pytest.raises(ResetFailed, match="Inappropriate ioctl"):
        rung.run()


def test_a_stale_reset_method_is_renewed(bound: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="reset", address=GPU, kind="stale"))
    (rung,) = [rung for rung in bound.reset_rungs(bound.card(GPU)) if rung.method == "sysfs-reset"]
    rung.run()
    state = read_state(tmp_path).cards[GPU]
    assert (state.resets, state.reset_methods_renewed) == (1, 1)


def test_a_hanging_reset_takes_its_time_and_ends_as_wedged(bound: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="reset", address=GPU, kind="hang", seconds=0.01))
    with pytest.raises(Wedged, match=GPU):
        climb(bound, bound.card(GPU), clock=clock)


def test_a_reset_can_lie(bound: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="reset", address=GPU, kind="lie"))
    climb(bound, bound.card(GPU), clock=clock)
    assert read_state(tmp_path).cards[GPU].resets == 0


def test_a_card_can_vanish(bound: SimulatedBus, tmp_path: Path) -> None:
    card = bound.card(GPU)
    inject(tmp_path, Fault(operation="card", address=GPU, kind="vanish"))
    assert [found.address for found in bound.cards()] == ["0000:51:00.0", "0000:61:00.0", "0000:71:00.0"]
    assert bound.dead_because(card) == "it is gone from the bus"
    with pytest.raises(CardMissing, match=GPU):
        bound.card(GPU)


def test_configuration_space_can_read_ones(bound: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="config", address=GPU))
    assert bound.dead_because(bound.card(GPU)) == "configuration space does not answer"
    assert bound.dead_because(bound.card(GPU)) == ""


def test_holders_can_be_busy(bus: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="holders", address=GPU, kind="busy"))
    with pytest.raises(CardBusy, match="Xwayland"):
        bus.bind(bus.card(GPU))


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        (Fault(operation="reset", address=GPU, kind="wrong-identity"), ("serial",)),
        (Fault(operation="fingerprint", address=GPU, kind="wrong-identity"), ("rom_sha256",)),
    ],
)
def test_identity_can_change(
    bound: SimulatedBus, tmp_path: Path, fault: Fault, changed: tuple[str, ...]
) -> None:
    card = bound.card(GPU)
    before = bound.fingerprint(card)
    inject(tmp_path, fault)
    climb(bound, card, clock=clock)
    assert fingerprint_changes(before, bound.fingerprint(card)) == changed


def test_memory_can_refuse_to_be_mapped(bound: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="memory", address=GPU))
    with pytest.raises(BusError, match="cannot be mapped"), bound.memory(bound.card(GPU)):
        pass


@pytest.mark.parametrize(("kind", "reason"), [("stuck", "128 of 128 canaries"), ("partial", "not zero")])
def test_faulty_memory_fails_the_scrub(bound: SimulatedBus, tmp_path: Path, kind: Kind, reason: str) -> None:
    bound.gpu_fragments(bound.card(GPU), slot=1)
    inject(tmp_path, Fault(operation="memory", address=GPU, kind=kind, times=0))
    evidence = scrub_now(bound, GPU)
    assert evidence.verdict == "failed"
    assert any(reason in text for text in evidence.reasons)
