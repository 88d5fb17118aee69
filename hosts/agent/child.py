"""What only a kernel can do to devices, and what changes something there, done by a child with a deadline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hosts.agent.children import call

Writes = Sequence[tuple[str, str]]


def write_in_child(writes: Writes, *, seconds: float) -> None:
    """As `child_program.write_each`. OSError as there, TimeoutError, ChildStuckError."""
    call("write", [list(pair) for pair in writes], seconds=seconds)


def hot_reset_in_child(group: Path, address: str, *, seconds: float) -> None:
    """As `vfio.hot_reset`. OSError as there, TimeoutError, ChildStuckError."""
    call("hot-reset", str(group), address, seconds=seconds)


def is_viable_in_child(group: Path, *, seconds: float) -> bool:
    """As `vfio.is_viable`. TimeoutError, ChildStuckError."""
    return bool(call("is-viable", str(group), seconds=seconds))


def run_in_child(command: Sequence[str], *, seconds: float) -> None:
    """As `child_program.run_program`. OSError as there, TimeoutError, ChildStuckError."""
    call("run", list(command), seconds=seconds)


def decode_memory_in_child(config: Path, *, seconds: float) -> None:
    """As `child_program.decode_memory`. OSError as there, TimeoutError, ChildStuckError."""
    call("decode-memory", str(config), seconds=seconds)
