"""A card's memory as a mapped file: the same code for a BAR under `/sys` and for a simulated card's file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 1024 * 1024


class MappedWindow:
    """A MemoryWindow over a shared mapping."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping

    @property
    def size(self) -> int:
        return len(self._mapping)

    def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
        unit = bytes((pattern,)) if isinstance(pattern, int) else pattern
        block = unit * max(1, BLOCK // len(unit))
        for start, size in self._blocks(offset, length, len(block)):
            self._mapping[start : start + size] = block[:size]

    def read(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        return self._mapping[offset : offset + length]

    def first_mismatch(self, offset: int, length: int, byte: int) -> int | None:
        wanted = bytes((byte,)) * BLOCK
        for start, size in self._blocks(offset, length, BLOCK):
            seen = self._mapping[start : start + size]
            if seen != wanted[:size]:
                return start + size - len(seen.lstrip(wanted[:1]))
        return None

    def _blocks(self, offset: int, length: int, step: int) -> Iterator[tuple[int, int]]:
        self._check(offset, length)
        for start in range(offset, offset + length, step):
            yield start, min(step, offset + length - start)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes at {offset} are not inside {self.size} bytes of memory.")


@contextmanager
def mapped(path: Path, size: int) -> Iterator[MappedWindow]:
    """The first `size` bytes of the file, mapped writable. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
    try:
        mapping = mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
    with mapping:
        yield MappedWindow(mapping)
