"""Ends child processes that were given a deadline, and remembers those that the kernel does not let die."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

REAP_SECONDS = 2.0
_stuck: set[subprocess.Popen[bytes]] = set()
_leaving: set[subprocess.Popen[bytes]] = set()


class ChildStuckError(Exception):
    """The child outlived its kill signal: the kernel is wedged."""


def end(child: subprocess.Popen[bytes], *, kill: Callable[[int, int], None] = os.killpg) -> None:
    """Kill a child that leads its own process group. ChildStuckError if it is still there afterwards."""
    kill(child.pid, signal.SIGKILL)
    try:
        child.communicate(timeout=REAP_SECONDS)
    except subprocess.TimeoutExpired:
        raise _given_up(child, "cannot be killed") from None


def wait_for(child: subprocess.Popen[bytes]) -> int:
    """The status of a child that has begun to end. ChildStuckError if the kernel does not let it."""
    try:
        return child.wait(timeout=REAP_SECONDS)
    except subprocess.TimeoutExpired:
        raise _given_up(child, "does not end") from None


def let_go(child: subprocess.Popen[bytes]) -> None:
    """Talk no more to a child that ends then, and let `reap_stuck` see to it."""
    _close_pipes(child)
    if child.poll() is None:
        _leaving.add(child)


def reap_stuck() -> int:
    """How many children are stuck for good; those are reaped whose kernel call has come back after all, and
    those that were let go."""
    for children in (_stuck, _leaving):
        for child in list(children):
            if child.poll() is not None:
                children.discard(child)
    return len(_stuck)


def _given_up(child: subprocess.Popen[bytes], because: str) -> ChildStuckError:
    _close_pipes(child)
    _stuck.add(child)
    return ChildStuckError(f"process {child.pid} {because}")


def _close_pipes(child: subprocess.Popen[bytes]) -> None:
    """Whatever became of the child, this process talks to it no more."""
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
