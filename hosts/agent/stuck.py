"""Ends child processes that were given a deadline, and remembers those that the kernel does not let die."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

REAP_SECONDS = 2.0
_stuck: list[subprocess.Popen[bytes]] = []


class ChildStuckError(Exception):
    """The child outlived its kill signal: the kernel is wedged."""


def end(child: subprocess.Popen[bytes], *, kill: Callable[[int, int], None] = os.killpg) -> None:
    """Kill a child that leads its own process group. ChildStuckError if it is still there afterwards."""
    kill(child.pid, signal.SIGKILL)
    try:
        child.communicate(timeout=REAP_SECONDS)
    except subprocess.TimeoutExpired:
        close_pipes(child)
        _stuck.append(child)
        raise ChildStuckError(f"process {child.pid} cannot be killed") from None


def reap_stuck() -> int:
    """How many children are stuck for good; those whose kernel call has come back after all are reaped."""
    _stuck[:] = [child for child in _stuck if child.poll() is None]
    return len(_stuck)


def close_pipes(child: subprocess.Popen[bytes]) -> None:
    """Whatever became of the child, this process talks to it no more."""
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
