"""Network namespaces that stand for a hypervisor, its machines and the world around it. Needs root."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
# Who is not refused at once is not let through: packets between namespaces take no time.
PATIENCE_SECONDS = 0.3
EVERYWHERE = "0.0.0.0"  # noqa: S104 - of a namespace


@dataclass(eq=False)
class Place:
    """One namespace. What is called `inside` it runs on a thread that is there."""

    name: str
    listeners: list[socket.socket] = field(default_factory=list)

    def inside(self, call: Callable[[], T]) -> T:
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                with Path(f"/run/netns/{self.name}").open("rb") as there:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(there.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(call())
            except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def run(self, *lines: str) -> None:
        script = "set -e\n" + "\n".join(lines)
        self.inside(lambda: subprocess.run(["sh", "-c", script], check=True, capture_output=True))

    def listen(self, port: int, address: str = EVERYWHERE) -> None:
        """Take TCP connections."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listeners.append(self.inside(lambda: socket.create_server((address, port), family=family)))

    def fall_silent(self) -> None:
        for each in self.listeners:
            each.close()

    def reaches(self, address: str, port: int) -> bool:
        """Whether a TCP connection is taken there."""

        def connect() -> bool:
            try:
                with socket.create_connection((address, port), PATIENCE_SECONDS):
                    return True
            except OSError:
                return False

        return self.inside(connect)

    def says(self, address: str, port: int, *, source: str) -> None:
        """One datagram, from an address that it may or may not have been given."""

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((source, 0))
                with suppress(OSError):  # refused at once
                    sender.sendto(b"hello", (address, port))

        self.inside(send)

    @contextmanager
    def hearing(self, port: int) -> Iterator[Callable[[], str]]:
        """Inside, call it for the address that the next datagram came from; empty if none does."""
        with self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as ear:
            ear.bind((EVERYWHERE, port))

            def heard() -> str:
                ready, _, _ = select.select([ear], [], [], PATIENCE_SECONDS)
                return str(ear.recvfrom(100)[1][0]) if ready else ""

            yield heard


@contextmanager
def places(*names: str) -> Iterator[list[Place]]:
    """Namespaces, each with its loopback up."""
    with ExitStack() as stack:
        made = []
        for name in names:
            place = Place(f"lht-{os.getpid()}-{name}")
            subprocess.run(["ip", "netns", "add", place.name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", place.name], check=True)
            stack.callback(place.fall_silent)
            place.run("ip link set lo up")
            made.append(place)
        yield made


def wire(one: Place, end: str, other: Place, other_end: str) -> None:
    """A cable between them; both ends are up."""
    subprocess.run(
        ["ip", "link", "add", end, "netns", one.name, "type", "veth",
         "peer", "name", other_end, "netns", other.name],
        check=True,
    )  # fmt: skip
    one.run(f"ip link set {end} up")
    other.run(f"ip link set {other_end} up")
