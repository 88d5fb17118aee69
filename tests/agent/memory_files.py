"""Memory that tests can scrub: a mapped file, and a bus that has nothing but one such card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from hosts.agent.bus import Card, MemoryWindow, PciBus
from hosts.agent.memory import MappedWindow, mapped
from hosts.agent.scrubber import Progress, Workplace
from hosts.protocol.messages import ResetRecord

RESET = ResetRecord(method="bridge-reset", scope="bus", seconds=0.1, attempts=1)


@contextmanager
def memory(directory: Path, size: int, *, content: bytes = b"residue") -> Iterator[MappedWindow]:
    path = directory / "memory"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size)
    with mapped(path, size) as window:
        yield window


class OneWindowBus:
    """As much of a PciBus as a scrubber needs that only maps memory."""

    def __init__(self, window: MemoryWindow) -> None:
        self._window = window

    @contextmanager
    def memory(self, card: Card) -> Iterator[MemoryWindow]:
        yield self._window


def nobody(done: int, total: int) -> None:
    """Progress that nobody watches."""


def workplace(window: MemoryWindow, card: Card, *, progress: Progress = nobody) -> Workplace:
    """A place whose card has this memory; a reset there does nothing."""
    bus = cast(PciBus, OneWindowBus(window))
    return Workplace(bus=bus, card=card, progress=progress, climb=lambda: RESET)
