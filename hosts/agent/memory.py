"""A card's memory as a mapped file: the same code for a BAR under `/sys` and for a simulated card's file.

It is written and compared in place by the C library, which is as fast as the memory: copying it through
Python's slices costs two thirds of that.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

# What is compared with has to stay in the processor's cache; each call costs microseconds.
BLOCK = 512 * 1024

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int


class _Block:
    """BLOCK times the same byte, aligned to a page."""

    def __init__(self, byte: int) -> None:
        self._pages = mmap.mmap(-1, BLOCK)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        ctypes.memset(self.address, byte, BLOCK)


@cache
def _block_of(byte: int) -> _Block:
    return _Block(byte)


class _Window(Protocol):
    def fill(self, offset: int, length: int, pattern: int | bytes) -> None: ...

    def read(self, offset: int, length: int) -> bytes: ...


class OneByOne:
    """What a window that is close by does with many places."""

    def write_each(self: _Window, parts: Sequence[tuple[int, bytes]]) -> None:
        for offset, content in parts:
            self.fill(offset, len(content), content)

    def read_each(self: _Window, offsets: Sequence[int], length: int) -> list[bytes]:
        return [self.read(offset, length) for offset in offsets]


class MappedWindow(OneByOne):
    """Memory or registers over a shared mapping. `close` it before the mapping."""

    name = "bar"
    is_fast = True

    def __init__(self, mapping: mmap.mmap) -> None:
        self.size = len(mapping)
        self._view: ctypes.Array[ctypes.c_char] | None = (ctypes.c_char * self.size).from_buffer(mapping)
        self._address = ctypes.addressof(self._view)

    def close(self) -> None:
        """Let go of the mapping. Nothing may be done with the window afterwards."""
        self._view, self.size = None, 0

    def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
        self._check(offset, length)
        if isinstance(pattern, int):
            ctypes.memset(self._address + offset, pattern, length)
            return
        block = pattern * max(1, min(BLOCK, length) // len(pattern) + 1)
        for start, size in _blocks(offset, length, len(block)):
            ctypes.memmove(self._address + start, block, size)

    def read(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        return ctypes.string_at(self._address + offset, length)

    def first_mismatch(self, offset: int, length: int, byte: int) -> int | None:
        self._check(offset, length)
        wanted, whole = _block_of(byte), length - length % BLOCK
        for start in range(offset, offset + whole, BLOCK):
            if _memcmp(self._address + start, wanted.address, BLOCK):
                return self._first_other(start, BLOCK, byte)
        if _memcmp(self._address + offset + whole, wanted.address, length - whole):
            return self._first_other(offset + whole, length - whole, byte)
        return None

    def _first_other(self, start: int, size: int, byte: int) -> int:
        return start + size - len(self.read(start, size).lstrip(bytes((byte,))))

    def read32(self, offset: int) -> int:
        self._check(offset, 4)
        return ctypes.c_uint32.from_address(self._address + offset).value

    def write32(self, offset: int, value: int) -> None:
        self._check(offset, 4)
        ctypes.c_uint32.from_address(self._address + offset).value = value

    def _check(self, offset: int, length: int) -> None:
        check_range(offset, length, self.size)


def check_range(offset: int, length: int, size: int) -> None:
    """ValueError unless the range lies inside memory of that size."""
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"{length} bytes at {offset} are not inside {size} bytes of memory.")


def _blocks(offset: int, length: int, step: int) -> Iterator[tuple[int, int]]:
    end = offset + length
    for start in range(offset, end, step):
        yield start, min(step, end - start)


@contextmanager
def mapped(path: Path, size: int, *, offset: int = 0) -> Iterator[MappedWindow]:
    """`size` bytes of the file, from a page's start, mapped writable. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
    try:
        mapping = mmap.mmap(descriptor, size, offset=offset)
    finally:
        os.close(descriptor)
    with mapping:
        window = MappedWindow(mapping)
        try:
            yield window
        finally:
            window.close()
