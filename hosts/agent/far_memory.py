"""A mapping that lives in a child process, so that what a card does to whoever touches it costs the child.

Memory of a card that goes off the bus kills who reads it, and a read that the card does not answer may never
return.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hosts.agent.child_program import CODING
from hosts.agent.children import Child, ChildEnded, borrowed
from hosts.agent.memory import MappedWindow, check_range

# Beyond that, a card may take as long as the slowest way to read one: 1.5 MB/s, without write combining.
ANSWER_SECONDS = 30.0
SLOWEST_BYTES_PER_SECOND = 1_000_000


class FarWindow:
    """Registers, and so a MemoryWindow too. OSError or TimeoutError when the child does not answer."""

    name = MappedWindow.name
    is_fast = MappedWindow.is_fast

    def __init__(self, child: Child, size: int) -> None:
        self.size = size
        self._child = child

    def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
        check_range(offset, length, self.size)
        told = pattern if isinstance(pattern, int) else pattern.decode(CODING)
        self._ask("fill", offset, length, told, moved=length)

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        return str(self._ask("read", offset, length, moved=length)).encode(CODING)

    def write_each(self, parts: Sequence[tuple[int, bytes]]) -> None:
        for offset, content in parts:
            check_range(offset, len(content), self.size)
        self._ask("write-each", [(offset, content.decode(CODING)) for offset, content in parts])

    def read_each(self, offsets: Sequence[int], length: int) -> list[bytes]:
        for offset in offsets:
            check_range(offset, length, self.size)
        return [str(each).encode(CODING) for each in self._ask("read-each", list(offsets), length)]

    def first_mismatch(self, offset: int, length: int, byte: int) -> int | None:
        check_range(offset, length, self.size)
        found: int | None = self._ask("first-mismatch", offset, length, byte, moved=length)
        return found

    def read32(self, offset: int) -> int:
        check_range(offset, 4, self.size)
        return int(self._ask("read32", offset))

    def write32(self, offset: int, value: int) -> None:
        check_range(offset, 4, self.size)
        self._ask("write32", offset, value)

    def _ask(self, *request: Any, moved: int = 0) -> Any:
        try:
            return self._child.ask(*request, seconds=ANSWER_SECONDS + moved / SLOWEST_BYTES_PER_SECOND)
        except ChildEnded as error:
            raise OSError(errno.EIO, f"The memory went away under its mapping ({error})") from error


@contextmanager
def far_mapped(path: Path, size: int) -> Iterator[FarWindow]:
    """The first `size` bytes of the file, mapped writable in a child. OSError, TimeoutError."""
    with borrowed() as child:
        child.ask("map", str(path), size, seconds=ANSWER_SECONDS)
        try:
            yield FarWindow(child, size)
        finally:
            if child.is_ready:
                child.ask("unmap", seconds=ANSWER_SECONDS)
