"""One at a time, and nobody for ever: who holds the lock may be in a call that never returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from hosts.agent.machines import HypervisorError

# Longer than what is done meanwhile may take until it is given up: a look at the machines and a definition.
TURN_SECONDS = 300.0


@contextmanager
def turn(lock: Lock) -> Iterator[None]:
    """HypervisorError when one's turn does not come."""
    if not lock.acquire(timeout=TURN_SECONDS):
        raise HypervisorError(f"What is done for another lease has not ended within {TURN_SECONDS:g} s.")
    try:
        yield
    finally:
        lock.release()
