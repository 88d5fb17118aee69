"""The scrubber that comes with Leasehold: it overwrites the card's memory through its memory BAR."""

from __future__ import annotations

from hosts.agent.bus import Card, MemoryWindow
from hosts.agent.scrub import Filled, Progress

CHUNK = 8 * 1024 * 1024
FULL_READ_BYTES = 1024 * 1024 * 1024
PATTERN = 0xA5
# Of these vendors the BAR is the memory itself. NVIDIA's goes through the GPU's own page tables instead.
_LINEAR = {"1234": "emulated", "1002": "AMD", "8086": "Intel"}
_PROVEN = frozenset({"1234"})


class BarScrubber:
    """Fills with a pattern and reads it back, then with zeros and reads them back.

    Read back is everything up to 1 GiB, and beyond that the first chunk of every 1 GiB.
    """

    name = "bar"
    version = "1"

    def is_proven(self, card: Card) -> bool:
        return _vendor(card) in _PROVEN

    def reach(self, window_size: int, card: Card) -> int:
        return window_size if _vendor(card) in _LINEAR else 0

    def fill(self, window: MemoryWindow, progress: Progress) -> Filled:
        read_back = mismatches = 0
        for number, byte in enumerate((PATTERN, 0)):
            for offset, length in _chunks(window.size):
                window.fill(offset, length, byte)
                progress(number * window.size + offset + length, 2 * window.size)
            for offset, length in _reading(window.size):
                mismatches += window.first_mismatch(offset, length, byte) is not None
                read_back += length
        return Filled(
            written_bytes=window.size,
            read_back_bytes=read_back,
            mismatches=mismatches,
            pattern=f"{PATTERN:02x}, then 00",
        )


def _vendor(card: Card) -> str:
    return card.fingerprint.vendor_device.partition(":")[0]


def _chunks(size: int) -> list[tuple[int, int]]:
    return [(offset, min(CHUNK, size - offset)) for offset in range(0, size, CHUNK)]


def _reading(size: int) -> list[tuple[int, int]]:
    if size <= FULL_READ_BYTES:
        return _chunks(size)
    return [(offset, min(CHUNK, size - offset)) for offset in range(0, size, FULL_READ_BYTES)]
