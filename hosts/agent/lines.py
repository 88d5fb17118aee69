"""Lines to a daemon whose calls have an age limit: a call that never returns costs its line, not the worker.

Keepalives tell of a daemon that is dead. One that answers them, and one call never, is told by the call's age
alone. Its line is given up then: new calls go by another one, and once nothing but overdue calls waits on the
old one, it is cut, which ends them.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

GUARD_SECONDS = 2.0
GIVEN_UP_KEPT = 8


class Overdue(Exception):
    """The call was given up; the text says which."""


class Unconnected(Exception):
    """The call could not be made: there is no line."""


@dataclass(eq=False)
class _Call:
    what: str
    until: float
    seconds: float
    given_up: bool = False


@dataclass(eq=False)
class Line:
    """A connection, how it is ended, and the socket that it goes through, if known: there it can be cut."""

    connection: Any
    hang_up: Callable[[], object]
    wire: socket.socket | None
    calls: list[_Call] = field(default_factory=list)

    def cut(self) -> None:
        """Every call that waits on it fails."""
        if self.wire is not None:
            with suppress(OSError):
                self.wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        try:
            self.hang_up()
        finally:
            if self.wire is not None:
                self.wire.close()


class Lines:
    """One line for new calls, and those given up on which calls still wait. `dial` makes another."""

    def __init__(self, dial: Callable[[], Line], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._dial = dial
        self._clock = clock
        self._changed = threading.Condition()
        self._given_up: list[Line] = []
        self._told: deque[str] = deque(maxlen=GIVEN_UP_KEPT)
        self._mine = threading.local()
        self._stopped = threading.Event()
        self._dialling: threading.Thread | None = None
        self._current: Line | None = dial()

    @property
    def connection(self) -> Any:
        """The one that this thread's call goes by."""
        line: Line | None = getattr(self._mine, "line", None) or self._current
        if line is None:
            raise Unconnected("There is no connection.")
        return line.connection

    def unanswered(self) -> tuple[str, ...]:
        """The latest calls that were given up, in words."""
        return tuple(self._told)

    @contextmanager
    def call(self, what: str, seconds: float) -> Iterator[None]:
        """What is asked within goes by one line, for at most so long. Overdue in place of any error if it was
        given up; Unconnected if it could not be begun."""
        call = _Call(what, self._clock() + seconds, seconds)
        line = self._enter(call)
        before, self._mine.line = getattr(self._mine, "line", None), line
        try:
            yield
        except Exception as error:
            if call.given_up:
                raise Overdue(_sentence(call)) from error
            raise
        finally:
            self._mine.line = before
            with self._changed:
                line.calls.remove(call)

    def _enter(self, call: _Call) -> Line:
        with self._changed:
            self._changed.wait_for(lambda: self._current is not None, call.seconds)
            if self._current is None:
                raise Unconnected(f"Cannot {call.what}: no connection within {call.seconds:g} s.")
            self._current.calls.append(call)
            return self._current

    def guard(self) -> threading.Thread:
        """Looks at the calls' ages from now on."""
        thread = threading.Thread(target=self._keep_looking, name="libvirt-guard", daemon=True)
        thread.start()
        return thread

    def _keep_looking(self) -> None:
        while not self._stopped.wait(GUARD_SECONDS):
            try:
                self.look()
            except Exception:
                log.exception("Could not look at the calls")

    def look(self) -> None:
        """Give up what is overdue, cut what nothing else waits for, and have a line made if there is none."""
        with self._changed:
            self._note_overdue()
            over = [line for line in self._given_up if all(call.given_up for call in line.calls)]
            drained = [line for line in over if not line.calls]
            self._given_up = [line for line in self._given_up if line not in drained]
        for line in over:
            line.cut()
        for line in drained:
            _close_silently(line)
        if self._current is None and not (self._dialling and self._dialling.is_alive()):
            self._dialling = threading.Thread(target=self._dial_another, name="libvirt-dial", daemon=True)
            self._dialling.start()

    def _dial_another(self) -> None:
        """On a thread of its own: a daemon that never answers its caller keeps nothing from being cut."""
        try:
            line = self._dial()
        except Exception:
            log.exception("There is no other connection yet")
            return
        with self._changed:
            is_wanted = not self._stopped.is_set()
            if is_wanted:
                self._current = line
                self._changed.notify_all()
        if not is_wanted:
            _close_silently(line)

    def _note_overdue(self) -> None:
        lines = [*self._given_up, *([self._current] if self._current else [])]
        for line in lines:
            for call in line.calls:
                if call.until <= self._clock() and not call.given_up:
                    call.given_up = True
                    self._told.appendleft(_sentence(call))
                    log.critical("%s Its connection is given up", _sentence(call))
                    if line is self._current:
                        self._current = None
                        self._given_up.append(line)

    def close(self) -> None:
        """All of them; an error of the current one's is raised."""
        self._stopped.set()
        with self._changed:
            given_up, self._given_up = self._given_up, []
            current, self._current = self._current, None
        for line in given_up:
            line.cut()
            _close_silently(line)
        if current is not None:
            current.close()


def _close_silently(line: Line) -> None:
    """One that was cut ends with an error."""
    with suppress(Exception):
        line.close()


def _sentence(call: _Call) -> str:
    return f"Cannot {call.what}: no answer within {call.seconds:g} s."


_dialling = threading.Lock()


@contextmanager
def dialled(folder: str = "libvirt") -> Iterator[list[socket.socket]]:
    """The sockets that are connected to one of a daemon's, in a folder of this name, within. They are ours
    too from then on: what is cut later is never another that has got the number of one that was closed."""
    with _dialling:
        found: list[socket.socket] = []
        before = {inode for inode, _ in _connected(folder)}
        yield found
        found += [wire.dup() for inode, wire in _connected(folder) if inode not in before]


def _connected(folder: str) -> Iterator[tuple[int, socket.socket]]:
    """Each such socket of this process by its inode. It is closed before the next one is looked at.

    Nothing else is touched: whoever closes any descriptor of SQLite's files lets go of its locks on them.
    """
    for entry in sorted(Path("/proc/self/fd").iterdir(), key=lambda each: int(each.name)):
        with suppress(OSError):
            if str(entry.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(entry.name))) as wire:
                    is_local = wire.family == socket.AF_UNIX
                    if is_local and Path(str(wire.getpeername())).parent.name == folder:
                        yield os.fstat(wire.fileno()).st_ino, wire
