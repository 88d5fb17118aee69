"""Says the kernel's errors as the bus's, and remembers the cards in which it hangs, so that nothing touches
them again before the next boot.

Reading as little as their configuration space would block for ever, and whoever reads with it. The list lies
in /run: a restarted worker finds it, and a reboot, which ends the hang, empties it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hosts.agent.bus import BusError, Unasked, Wedged
from hosts.agent.stuck import ChildStuckError


class Hanging:
    """The list in the file at `path`, one address a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[str] = set()

    def addresses(self) -> frozenset[str]:
        try:
            written = self._path.read_text().split()
        except (FileNotFoundError, PermissionError):
            written = []
        return frozenset(self._seen.union(written))

    def refuse(self, address: str) -> None:
        """Wedged if the card is on the list."""
        if address in self.addresses():
            raise Wedged(f"The kernel hangs on {address}. The host has to be rebooted.")

    @contextmanager
    def explained(self, address: str, kind: type[BusError]) -> Iterator[None]:
        """As the function; a card in which the kernel hangs meanwhile gets on the list."""
        try:
            with explained(address, kind):
                yield
        except Wedged:
            self._add(address)
            raise

    def _add(self, address: str) -> None:
        self._seen.add(address)
        with suppress(PermissionError):  # whoever may not write it down knows it as long as it runs
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("a") as file:
                file.write(f"{address}\n")


@contextmanager
def explained(address: str, kind: type[BusError]) -> Iterator[None]:
    """Say an operating system's error as a BusError of the given kind; a stuck child means Wedged, and none
    at all Unasked."""
    try:
        yield
    except ChildStuckError as error:
        raise Wedged(f"The kernel hangs on {address}: {error}. The host has to be rebooted.") from error
    except ChildProcessError as error:
        raise Unasked(f"{address}: {error}.") from error
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        raise kind(f"{address}: {error.strerror or error}{where}.") from error
