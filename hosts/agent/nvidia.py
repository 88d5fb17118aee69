"""NVIDIA's cards, as far as their registers say what no BAR shows: alive, cleared, and the memory itself.

Register numbers are of Turing and later. None of this has been tried on a real card: it counts as unverified.
Sources: nouveau (nvkm: instmem/nv50.c, instmem/gh100.c, fb/ga102.c, fb/gp102.c) and NVIDIA/gpu-admin-tools.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from hosts.agent.bus import BusError, Card, Registers
from hosts.agent.memory import OneByOne, check_range
from hosts.agent.scrubber import Outcome, ScrubFailed, Workplace

VENDOR = "10de"
MIB = 1024 * 1024
SIZE = 16 * MIB
BOOT_0 = 0x0
# 1 MiB of the card's memory, moved in steps of 64 KiB by the window register.
WINDOW, WINDOW_SIZE, WINDOW_STEP = 0x700000, MIB, 16
CLEARED = 1
CLEAR_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Layout:
    """Where the registers of a generation are."""

    window: int
    memory_size: int
    cleared: int
    in_mib: bool = True


_TURING = Layout(window=0x1700, memory_size=0x100CE0, cleared=0x100B20, in_mib=False)
_AMPERE = Layout(window=0x1700, memory_size=0x1183A4, cleared=0x100B20)
_HOPPER = Layout(window=0x10FD40, memory_size=0x1183A4, cleared=0x100B20)
_BLACKWELL = Layout(window=0x10FD40, memory_size=0x1183A4, cleared=0x8A004C)
# By the first two digits of the chip's number, such as 0x172.
_LAYOUTS = {
    0x16: _TURING, 0x17: _AMPERE, 0x18: _HOPPER, 0x19: _AMPERE, 0x1A: _BLACKWELL, 0x1B: _BLACKWELL,
}  # fmt: skip


class UnknownChip(BusError):
    """The registers are not those of a generation that is known here."""


def is_nvidia(vendor_device: str) -> bool:
    return vendor_device.startswith(f"{VENDOR}:")


def dead_because(registers: Registers) -> str:
    """A dead card's first register reads all ones, or a bus error's signature; empty if it does not."""
    first = registers.read32(BOOT_0)
    is_dead = first == 0xFFFFFFFF or first >> 16 == 0xBADF
    return f"its first register reads {first:08x}" if is_dead else ""


def layout(boot_0: int) -> Layout:
    """Where the registers are of a chip whose first one reads so, or UnknownChip."""
    chip = (boot_0 & 0x1FF00000) >> 20
    if chip >> 4 not in _LAYOUTS:
        raise UnknownChip(f"Chip {chip:03x} is not of a generation (Turing to Blackwell) that is known here.")
    return _LAYOUTS[chip >> 4]


def layout_of(registers: Registers) -> Layout:
    """As `layout`, of the chip behind these registers."""
    if registers.size < SIZE:
        raise UnknownChip(f"Its registers have {registers.size} bytes, not {SIZE}.")
    return layout(registers.read32(BOOT_0))


def memory_bytes(registers: Registers) -> int:
    """How much memory the card has."""
    where = layout_of(registers)
    value = registers.read32(where.memory_size)
    if where.in_mib:
        return value * MIB
    size = (value >> 4 & 0x3F) << (value & 0xF) + 20
    return size * 15 // 16 if value >> 30 & 1 else size  # ECC keeps a part to itself


class RegisterWindow(OneByOne):
    """A MemoryWindow through the registers: any place in the memory, 1 MiB at a time, for samples."""

    name = "bar0-window"
    is_fast = False

    def __init__(self, registers: Registers) -> None:
        self.size = memory_bytes(registers)
        self._registers = registers
        self._selector = layout_of(registers).window

    def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
        """A longer pattern than a byte begins anew in each mebibyte: canaries never cross one."""
        for inside, size, _ in self._parts(offset, length):
            self._registers.fill(inside, size, pattern)

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(self._registers.read(inside, size) for inside, size, _ in self._parts(offset, length))

    def first_mismatch(self, offset: int, length: int, byte: int) -> int | None:
        for inside, size, at in self._parts(offset, length):
            found = self._registers.first_mismatch(inside, size, byte)
            if found is not None:
                return found - inside + at
        return None

    def _parts(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(place among the registers, length, place in the memory) of each part, its mebibyte being shown."""
        check_range(offset, length, self.size)
        end = offset + length
        while offset < end:
            within = offset % WINDOW_SIZE
            size = min(WINDOW_SIZE - within, end - offset)
            self._registers.write32(self._selector, (offset - within) >> WINDOW_STEP)
            yield WINDOW + within, size, offset
            offset += size


class FirmwareClear:
    """Has the card's firmware clear the memory, by a bus reset, and waits until it says that it has.

    A claim: nothing is read back but that word.
    """

    name = "nvidia-clear"
    version = "1"
    kind: Literal["claim"] = "claim"
    proven_on: tuple[str, ...] = ()

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep

    def run(self, place: Workplace) -> Outcome:
        _require_nvidia(place.card)
        place.reset()
        if place.resets[-1].scope != "bus":
            raise ScrubFailed(f"The firmware clears after a bus reset; {place.resets[-1].method} is none.")
        with place.bus.registers(place.card) as registers:
            where = layout_of(registers)
            self._wait(registers, where.cleared)
            size = memory_bytes(registers)
        place.progress(size, size)
        return Outcome(reached_bytes=size, pattern="00", facts={"status register": f"{where.cleared:06x}"})

    def _wait(self, registers: Registers, register: int) -> None:
        deadline = self._clock() + CLEAR_SECONDS
        while (seen := registers.read32(register)) != CLEARED:
            if self._clock() > deadline:
                told = f"Register {register:06x} reads {seen:08x} after {CLEAR_SECONDS:g} s"
                raise ScrubFailed(f"{told}: the firmware does not say that it has cleared the memory.")
            self._sleep(POLL_SECONDS)


def _require_nvidia(card: Card) -> None:
    if not is_nvidia(card.fingerprint.vendor_device):
        raise ScrubFailed(f"{card.address} is not a card of NVIDIA's.")
