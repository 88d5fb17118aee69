"""Runs small machines that work for the host: built, started, listened to, and removed whatever happens."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hosts.agent.machines import HypervisorError, MachineHost

CONNECT_SECONDS = 10.0
POLL_SECONDS = 0.1


@contextmanager
def running(host: MachineHost, name: str, xml: str, *, home_key: bytes | None = None) -> Iterator[None]:
    """It runs. Whatever an earlier one has left is removed before, and all of this one afterwards."""
    remove_small_machine(host, name)
    try:
        host.define(xml, home_key=home_key)
        host.start(name)
        yield
    finally:
        remove_small_machine(host, name)


def remove_small_machine(host: MachineHost, name: str) -> None:
    """Stop it and forget it, if there is one."""
    host.destroy(name)
    host.undefine(name)


@contextmanager
def open_channel(
    host: MachineHost, name: str, channel: str, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[socket.socket]:
    """Until somebody listens, it waits with what it has to say. HypervisorError if nothing answers."""
    path = host.channel_socket(name, channel)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_SECONDS)
        for remaining in reversed(range(int(CONNECT_SECONDS / POLL_SECONDS))):
            try:
                connection.connect(str(path))
                break
            except OSError as error:
                if not remaining:
                    raise HypervisorError(f"Nothing answers behind {path}: {error.strerror}.") from error
                sleep(POLL_SECONDS)
        yield connection
