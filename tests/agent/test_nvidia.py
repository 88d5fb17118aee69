"""NVIDIA's registers on the simulated bus: the window to the memory, the firmware's claim, a dead card.

The simulation follows the same sources as the code; on real hardware none of it has been tried.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.agent import nvidia, witness
from hosts.agent.bus import BusError, Card
from hosts.agent.memory import mapped
from hosts.agent.nvidia import MIB, FirmwareClear, RegisterWindow, UnknownChip, layout, memory_bytes
from hosts.agent.reset import climb
from hosts.agent.scrubber import Outcome, ScrubFailed, Workplace
from hosts.agent.simulated import Fault, SimulatedBus, SimulatedCard, inject, memory_file, read_state
from hosts.agent.simulated_nvidia import SimulatedRegisters
from hosts.protocol.messages import Fingerprint
from tests.agent.bus_contract import CONTRACT, scrub_now
from tests.agent.memory_files import memory

GPU = "0000:41:00.0"
SIZE = 5 * MIB + 65536
TURING, AMPERE, HOPPER, ADA, BLACKWELL = 0x164000A1, 0xB72000A1, 0x180000A1, 0x194000A1, 0x1B2000A1
# These do not hold where firmware clears after a reset, and the memory is seen through registers.
NOT_FOR_NVIDIA = {"a_reset_does_not_scrub", "scrubbing_leaves_zeros_and_evidence"}


def a_card(boot_0: int = AMPERE, size: int = SIZE) -> SimulatedCard:
    return SimulatedCard(
        address=GPU,
        functions=(GPU,),
        iommu_group=20,
        name="Simulated NVIDIA",
        memory_bytes=size,
        numa_node=0,
        fingerprint=Fingerprint(vendor_device="10de:2230", serial="1"),
        boot_0=boot_0,
    )


@pytest.fixture
def bus(tmp_path: Path) -> SimulatedBus:
    bus = SimulatedBus(tmp_path, [a_card()])
    bus.bind(bus.card(GPU))
    return bus


@dataclass
class Time:
    """A clock that moves when somebody sleeps."""

    now: float = 0.0
    naps: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def place(bus: SimulatedBus, card: Card) -> Workplace:
    return Workplace(
        bus=bus,
        card=card,
        progress=lambda done, total: None,
        climb=lambda: climb(bus, card, clock=lambda: 0.0),
    )


def cleared(bus: SimulatedBus, time: Time) -> Outcome:
    return FirmwareClear(clock=time.clock, sleep=time.sleep).run(place(bus, bus.card(GPU)))


@pytest.mark.parametrize(
    ("boot_0", "window", "status"),
    [
        (TURING, 0x1700, 0x100B20),
        (AMPERE, 0x1700, 0x100B20),
        (ADA, 0x1700, 0x100B20),
        (HOPPER, 0x10FD40, 0x100B20),
        (BLACKWELL, 0x10FD40, 0x8A004C),
    ],
)
def test_a_generation_is_known_by_the_first_register(boot_0: int, window: int, status: int) -> None:
    where = layout(boot_0)
    assert (where.window, where.cleared) == (window, status)


@pytest.mark.parametrize("boot_0", [0x140000A1, 0x130000A1, 0x1C0000A1, 0])
def test_other_chips_are_not_touched(boot_0: int) -> None:
    with pytest.raises(UnknownChip, match="not of a generation"):
        layout(boot_0)


class Words:
    """Registers of which only words are known."""

    name, is_fast, size = "bar", True, nvidia.SIZE

    def __init__(self, words: dict[int, int]) -> None:
        self.words = words

    def read32(self, offset: int) -> int:
        return self.words.get(offset, 0)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.mark.parametrize(
    ("boot_0", "register", "value", "size"),
    [
        (AMPERE, 0x1183A4, 49140, 49140 << 20),
        (BLACKWELL, 0x1183A4, 32768, 32 << 30),
        (TURING, 0x100CE0, 0x10 << 4 | 10, 16 << 30),
        (TURING, 0x100CE0, 1 << 30 | 0x10 << 4 | 10, 15 << 30),
    ],
)
def test_the_memory_is_as_large_as_a_register_says(boot_0: int, register: int, value: int, size: int) -> None:
    assert memory_bytes(Words({0: boot_0, register: value})) == size


def test_too_few_registers_are_those_of_something_else() -> None:
    words = Words({0: AMPERE})
    words.size = 4096
    with pytest.raises(UnknownChip, match="4096 bytes"):
        memory_bytes(words)


@settings(max_examples=50, deadline=None)
@given(offset=st.integers(0, SIZE - 64), length=st.integers(0, 3 * MIB), byte=st.integers(1, 255))
def test_the_window_reaches_every_byte_of_the_memory(
    tmp_path_factory: pytest.TempPathFactory, offset: int, length: int, byte: int
) -> None:
    length = min(length, SIZE // MIB * MIB - offset) if offset < SIZE // MIB * MIB else 0
    with memory(tmp_path_factory.mktemp("vram"), SIZE, content=b"") as vram:
        registers = SimulatedRegisters(vram, boot_0=AMPERE, says_cleared=False, is_dead=False)
        window = RegisterWindow(registers)
        assert window.size == SIZE // MIB * MIB
        window.fill(offset if length else 0, length, byte)
        start = offset if length else 0
        assert vram.first_mismatch(0, SIZE, 0) == (start if length else None)
        assert vram.first_mismatch(start, length, byte) is None
        assert window.read(start, length) == bytes([byte]) * length
        assert window.first_mismatch(start, length, byte) is None
        if length:
            vram.fill(start + length - 1, 1, byte ^ 0xFF)
            assert window.first_mismatch(start, length, byte) == start + length - 1


def test_a_window_is_moved_one_mebibyte_at_a_time(tmp_path: Path) -> None:
    moved: list[int] = []

    class Watched(SimulatedRegisters):
        def write32(self, offset: int, value: int) -> None:
            moved.append(value)
            super().write32(offset, value)

    with memory(tmp_path, SIZE, content=b"") as vram:
        window = RegisterWindow(Watched(vram, boot_0=AMPERE, says_cleared=False, is_dead=False))
        window.read(MIB - 16, 2 * MIB)
    assert moved == [0x00, 0x10, 0x20]


@pytest.mark.parametrize("clause", [c for c in CONTRACT if c.__name__ not in NOT_FOR_NVIDIA])
def test_the_bus_contract_holds_for_such_a_card(clause: Any, tmp_path: Path) -> None:
    clause(SimulatedBus(tmp_path, [a_card(size=5 * MIB)]), GPU)


def test_canaries_are_planted_and_found_anywhere_in_the_memory(bus: SimulatedBus, tmp_path: Path) -> None:
    with bus.memory(bus.card(GPU)) as window:
        planted = witness.plant(window, "10de:2230", "seed")
        assert (planted.window, planted.proven) == ("bar0-window", False)
        assert witness.found(planted, window) == witness.CANARIES
        seen = witness.look(planted, window, "full")
    assert seen.coverage == "sampled", "it is too slow to be read whole"
    content = memory_file(tmp_path, GPU).read_bytes()
    for canary in witness.canaries(planted.window_bytes, "seed"):
        assert content[canary.offset : canary.offset + 32] == canary.value


def test_the_firmware_clears_after_a_bus_reset_and_says_so(bus: SimulatedBus, tmp_path: Path) -> None:
    with mapped(memory_file(tmp_path, GPU), SIZE) as vram:
        vram.fill(0, SIZE, 0x5A)
    outcome = cleared(bus, Time())
    assert outcome.reached_bytes == SIZE // MIB * MIB
    assert (outcome.written_bytes, outcome.read_back_bytes, outcome.coverage) == (0, 0, "none")
    assert read_state(tmp_path).cards[GPU].resets == 1
    assert not any(memory_file(tmp_path, GPU).read_bytes())


def test_firmware_that_never_says_so_has_a_deadline(bus: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="clear", address=GPU))
    time = Time()
    with pytest.raises(ScrubFailed, match=r"Register 100b20 reads 00000000 after 60 s"):
        cleared(bus, time)
    assert 60 <= time.now < 61


def test_a_reset_that_was_not_of_the_bus_clears_nothing(bus: SimulatedBus, tmp_path: Path) -> None:
    for rung in ("vfio-hot-reset", "bridge-reset"):
        inject(tmp_path, Fault(operation="reset", address=GPU, rung=rung))
    with pytest.raises(ScrubFailed, match="sysfs-reset is none"):
        cleared(bus, Time())


def test_another_makers_card_is_refused(tmp_path: Path) -> None:
    bus = SimulatedBus(tmp_path)
    with pytest.raises(ScrubFailed, match="not a card of NVIDIA's"):
        FirmwareClear().run(place(bus, bus.card(GPU)))
    with pytest.raises(BusError, match="no registers"), bus.registers(bus.card(GPU)):
        pass


def test_a_card_whose_registers_read_a_bus_error_is_dead(bus: SimulatedBus, tmp_path: Path) -> None:
    inject(tmp_path, Fault(operation="registers", address=GPU))
    assert bus.dead_because(bus.card(GPU)) == "its first register reads badf1100"
    assert bus.dead_because(bus.card(GPU)) == ""


def test_the_claim_never_suffices_alone_and_a_lie_is_caught(bus: SimulatedBus, tmp_path: Path) -> None:
    honest = scrub_now(bus, GPU, "nvidia-clear")
    assert honest.verdict == "failed"
    assert honest.witness is not None
    assert (honest.witness.canaries_found, honest.witness.mismatches) == (0, 0)
    assert "The method 'nvidia-clear' is not proven on 10de:2230: it never suffices alone." in honest.reasons
    assert len(honest.resets) == 3
    inject(tmp_path, Fault(operation="clear", address=GPU, kind="lie", times=0))
    lying = scrub_now(bus, GPU, "nvidia-clear")
    assert lying.witness is not None
    assert lying.witness.canaries_found == witness.CANARIES
    assert f"{witness.CANARIES} of {witness.CANARIES} canaries survived the scrub." in lying.reasons


def test_the_bar_is_not_taken_for_the_memory(bus: SimulatedBus) -> None:
    evidence = scrub_now(bus, GPU, "bar")
    assert evidence.methods[0].failure.startswith("The BAR of this card is not its memory")
