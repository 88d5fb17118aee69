"""A mapping that lives in a child process, so that what a card does to whoever touches it costs the child.

Memory of a card that goes off the bus kills who reads it, and a read that the card does not answer may never
return. The child imports the standard library only. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from hosts.agent.memory import MappedWindow, check_range, mapped
from hosts.agent.stuck import close_pipes, end

START_SECONDS = 30.0
# Beyond that, a card may take as long as the slowest way to read one: 1.5 MB/s, without write combining.
ANSWER_SECONDS = 30.0
SLOWEST_BYTES_PER_SECOND = 1_000_000
OPERATIONS = ("fill", "read", "first_mismatch", "read32", "write32")
_CODING = "latin-1"  # one character for each byte


class FarWindow:
    """Registers, and so a MemoryWindow too. OSError or TimeoutError when the child does not answer."""

    name = MappedWindow.name
    is_fast = MappedWindow.is_fast

    def __init__(self, child: subprocess.Popen[bytes], size: int) -> None:
        self.size = size
        self._child = child
        self._requests = cast(IO[bytes], child.stdin)
        self._answers = cast(IO[bytes], child.stdout).fileno()
        self._received = b""

    def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
        check_range(offset, length, self.size)
        told = pattern if isinstance(pattern, int) else pattern.decode(_CODING)
        self.ask("fill", offset, length, told, seconds=_patience(length))

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        answer = self.ask("read", offset, length, seconds=_patience(length))
        return str(answer).encode(_CODING)

    def first_mismatch(self, offset: int, length: int, byte: int) -> int | None:
        check_range(offset, length, self.size)
        found: int | None = self.ask("first_mismatch", offset, length, byte, seconds=_patience(length))
        return found

    def read32(self, offset: int) -> int:
        check_range(offset, 4, self.size)
        return int(self.ask("read32", offset, seconds=ANSWER_SECONDS))

    def write32(self, offset: int, value: int) -> None:
        check_range(offset, 4, self.size)
        self.ask("write32", offset, value, seconds=ANSWER_SECONDS)

    def ask(self, *request: Any, seconds: float) -> Any:
        """Send a request and wait for its answer. TimeoutError when the child had to be ended."""
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise self._ended() from None
        return self.answer(seconds)

    def answer(self, seconds: float) -> Any:
        told = json.loads(self._line(time.monotonic() + seconds, seconds))
        if "error" in told:
            raise OSError(*told["error"])
        return told["value"]

    def _line(self, deadline: float, seconds: float) -> bytes:
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                end(self._child)
                raise TimeoutError(f"the memory does not answer within {seconds:g} s")
            part = os.read(self._answers, 1 << 20)
            if not part:
                raise self._ended()
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _ended(self) -> OSError:
        status = self._child.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return OSError(errno.EIO, f"The memory went away under its mapping ({how})")


def _patience(length: int) -> float:
    return ANSWER_SECONDS + length / SLOWEST_BYTES_PER_SECOND


@contextmanager
def far_mapped(path: Path, size: int) -> Iterator[FarWindow]:
    """The first `size` bytes of the file, mapped writable in a child. OSError, TimeoutError."""
    child = subprocess.Popen(
        [sys.executable, "-S", "-m", "hosts.agent.far_memory", str(path), str(size)],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
    )
    window = FarWindow(child, size)
    try:
        window.answer(START_SECONDS)
        yield window
    finally:
        try:
            if child.poll() is None:
                end(child)
        finally:
            close_pipes(child)


def main(path: str, size: str) -> None:
    """The child's side: map, then do as asked until nobody asks any more."""
    try:
        with mapped(Path(path), int(size)) as window:
            _say(value=None)
            for line in sys.stdin:
                _say(value=_obey(window, *json.loads(line)))
    except OSError as error:
        _say(error=[error.errno, error.strerror])


def _obey(window: MappedWindow, operation: str, *arguments: Any) -> Any:
    if operation not in OPERATIONS:
        raise ValueError(operation)
    given = [each.encode(_CODING) if isinstance(each, str) else each for each in arguments]
    value = getattr(window, operation)(*given)
    return value.decode(_CODING) if isinstance(value, bytes) else value


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
