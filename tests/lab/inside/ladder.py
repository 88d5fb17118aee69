"""Every rung of a card's reset ladder, one after the other, and the rest of what every bus has to do.

The card's second function has a register that is not zero until it is reset: that a rung did something is
seen there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hosts.agent.bus import PciBus, ResetFailed, ResetRung
from hosts.agent.memory import MappedWindow, mapped
from hosts.agent.slicing_bus import SlicingBus
from tests.lab.inside.telling import tell

DEVICES = Path("/sys/bus/pci/devices")
# Wake Enable of a High Definition Audio controller: one bit for each codec, and none after a reset.
REGISTER, BITS = 0x0C, 0x7
COMMAND, DECODES_MEMORY = 4, 0x2
BAR_BYTES = 0x4000


def play(address: str) -> dict[str, Any]:
    bus = SlicingBus()
    bus.bind(bus.card(address))
    rungs = [climbed(bus, address, rung) for rung in bus.reset_rungs(bus.card(address))]
    give_back(bus, address)
    return {"rungs": rungs}


def climbed(bus: PciBus, address: str, rung: ResetRung) -> dict[str, Any]:
    """What the rung left of what was written to the card."""
    audio = DEVICES / bus.card(address).functions[1]
    before, came, failure = read_after_writing(audio), bus.incarnation(address), ""
    try:
        rung.run()
    except ResetFailed as error:
        failure = str(error)
    return {
        "method": rung.method,
        "failure": failure,
        "before": before,
        "after": register(audio),
        "came back": bus.incarnation(address) != came,
        "bound": bus.is_bound(bus.card(address)),
    }


def read_after_writing(function: Path) -> int:
    with window(function) as registers:
        registers.write32(REGISTER, BITS)
        return registers.read32(REGISTER)


def register(function: Path) -> int:
    with window(function) as registers:
        return registers.read32(REGISTER)


@contextmanager
def window(function: Path) -> Iterator[MappedWindow]:
    """Its first BAR, which answers once the function decodes memory: a reset switches that off."""
    with (function / "config").open("r+b", buffering=0) as config:
        config.seek(COMMAND)
        command = config.read(1)[0]
        config.seek(COMMAND)
        config.write(bytes([command | DECODES_MEMORY]))
    with mapped(function / "resource0", BAR_BYTES) as registers:
        yield registers


def give_back(bus: PciBus, address: str) -> None:
    """To the drivers of the host, as an operator would: whoever comes next finds the card as it was."""
    for function in bus.card(address).functions:
        (DEVICES / function / "driver/unbind").write_text(function)
        (DEVICES / function / "driver_override").write_text("\n")
        Path("/sys/bus/pci/drivers_probe").write_text(function)


if __name__ == "__main__":
    tell(lambda: play(sys.argv[1]))
