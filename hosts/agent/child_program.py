"""The child's side of `child`: does what it is asked, line by line, until nobody asks any more.

The standard library only, so that it starts fast. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hosts.agent import vfio
from hosts.agent.memory import MappedWindow, mapped

CODING = "latin-1"  # one character for each byte
_COMMAND_REGISTER, _COMMAND_MEMORY = 4, 0x2


def write_each(writes: Sequence[tuple[str, str]]) -> None:
    """Write each text to its (existing) file, in one system call each; stop at the first OSError."""
    for path, text in writes:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        finally:
            os.close(descriptor)


def read_file(path: str, size: int) -> str:
    """At most that many bytes from the file's beginning."""
    with Path(path).open("rb", buffering=0) as file:
        parts = []
        while size > 0 and (part := file.read(size)):
            parts.append(part)
            size -= len(part)
    return b"".join(parts).decode(CODING)


def decode_memory(config: str) -> None:
    """Set COMMAND.MEM in a configuration space, without which neither BAR nor ROM answers."""
    descriptor = os.open(config, os.O_RDWR | os.O_CLOEXEC)
    try:
        command = int.from_bytes(os.pread(descriptor, 2, _COMMAND_REGISTER), "little")
        if not command & _COMMAND_MEMORY:
            os.pwrite(descriptor, (command | _COMMAND_MEMORY).to_bytes(2, "little"), _COMMAND_REGISTER)
    finally:
        os.close(descriptor)


def run_program(command: Sequence[str]) -> None:
    """Run it to its end; OSError with what it complained about if it fails."""
    held = os.dup(1)  # a program that no signal ends holds the pipe that the caller reads, who so knows of it
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, pass_fds=(held,)
        )
    finally:
        os.close(held)
    if done.returncode:
        told = (done.stderr or done.stdout).strip()[-300:] or f"status {done.returncode}"
        raise OSError(errno.EIO, told, command[0])


class Memory:
    """The one mapping that a child has at a time, as of `memory.MappedWindow`."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._window: MappedWindow | None = None

    def map(self, path: str, size: int) -> None:
        self._window = self._open.enter_context(mapped(Path(path), size))

    def unmap(self) -> None:
        self._window = None
        self._open.close()

    def fill(self, offset: int, length: int, pattern: int | str) -> None:
        self._mapped.fill(offset, length, pattern if isinstance(pattern, int) else pattern.encode(CODING))

    def read(self, offset: int, length: int) -> str:
        return self._mapped.read(offset, length).decode(CODING)

    def write_each(self, parts: Sequence[tuple[int, str]]) -> None:
        self._mapped.write_each([(offset, content.encode(CODING)) for offset, content in parts])

    def read_each(self, offsets: Sequence[int], length: int) -> list[str]:
        return [content.decode(CODING) for content in self._mapped.read_each(offsets, length)]

    def first_mismatch(self, offset: int, length: int, byte: int) -> int | None:
        return self._mapped.first_mismatch(offset, length, byte)

    def read32(self, offset: int) -> int:
        return self._mapped.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        self._mapped.write32(offset, value)

    @property
    def _mapped(self) -> MappedWindow:
        if self._window is None:
            raise LookupError("Nothing is mapped.")
        return self._window


def operations(memory: Memory) -> dict[str, Callable[..., Any]]:
    """What a child can be asked, by name."""
    return {
        "write": write_each,
        "read-file": read_file,
        "decode-memory": decode_memory,
        "is-viable": lambda group: vfio.is_viable(Path(group)),
        "hot-reset": vfio.hot_reset,
        "run": run_program,
        "map": memory.map,
        "unmap": memory.unmap,
        "fill": memory.fill,
        "read": memory.read,
        "write-each": memory.write_each,
        "read-each": memory.read_each,
        "first-mismatch": memory.first_mismatch,
        "read32": memory.read32,
        "write32": memory.write32,
    }


def answer(known: dict[str, Callable[..., Any]], request: bytes) -> dict[str, Any]:
    """The value; or the arguments of an OSError; or what else went wrong, in words."""
    try:
        operation, *arguments = json.loads(request)
        return {"value": known[operation](*arguments)}
    except OSError as error:
        return {"error": [error.errno, error.strerror or str(error), error.filename]}
    except Exception as error:  # noqa: BLE001 — whoever asked has to be told
        return {"failure": f"{type(error).__name__}: {error}"}


def main() -> None:
    known = operations(Memory())
    told: dict[str, Any] = {"value": None}  # the first answer says that it is there
    while True:
        sys.stdout.buffer.write(json.dumps(told).encode() + b"\n")
        sys.stdout.buffer.flush()
        request = sys.stdin.buffer.readline()
        if not request:
            return
        told = answer(known, request)


if __name__ == "__main__":
    main()
