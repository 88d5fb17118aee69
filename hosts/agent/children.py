"""Has kernel calls that may never return made by child processes, each with a deadline.

A wedged kernel thread then costs one card and one process, never the worker. A child is a fresh program, not
a fork of a threaded one. One that has answered is kept for the next question: starting another takes longer
than most answers.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from hosts.agent.child_program import CODING
from hosts.agent.stuck import ChildStuckError, end, let_go, reap_stuck, wait_for

START_SECONDS = 30.0
# Longer than any card takes to answer in configuration space, or to give its ROM.
READ_SECONDS = 30.0
IDLE_AT_MOST = 2
# -P, or it would import what lies where the administrator happens to be.
COMMAND = (sys.executable, "-P", "-S", "-m", "hosts.agent.child_program")


class ChildNotStarted(ChildProcessError):
    """There is no child to ask; the text says why. Nothing is so known of what it was to be asked about."""


class ChildEnded(ChildProcessError):
    """The child ended under what it was asked; the text says how."""


class NoAnswer(TimeoutError):
    """The child had to be killed; the kernel's own ETIMEDOUT is an answer."""


class Child:
    """A program that does one thing after the other. `child_program` has what it can be asked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            COMMAND,
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._received = b""
        self._owes = True
        os.set_blocking(self._stdin.fileno(), False)
        try:
            self._exchange(b"", START_SECONDS, os.killpg)
        except BaseException:
            self.dismiss()
            raise

    @property
    def is_ready(self) -> bool:
        """It is alive, and owes no answer."""
        return not self._owes and self._process.poll() is None

    def ask(
        self,
        operation: str,
        *arguments: Any,
        seconds: float,
        kill: Callable[[int, int], None] = os.killpg,
    ) -> Any:
        """Its answer. An OSError of its is raised here, ChildEnded if it ended; NoAnswer when it had to be
        killed, ChildStuckError when it would not die."""
        self._owes = True
        told = self._exchange(json.dumps([operation, *arguments]).encode() + b"\n", seconds, kill)
        if "failure" in told:
            raise ChildProcessError(told["failure"])
        if "error" in told:
            raise OSError(*told["error"])
        return told["value"]

    def dismiss(self) -> None:
        """Nobody asks it any more, and so it ends; nobody waits for that."""
        let_go(self._process)

    @property
    def _stdin(self) -> IO[bytes]:
        return cast(IO[bytes], self._process.stdin)

    @property
    def _stdout(self) -> IO[bytes]:
        return cast(IO[bytes], self._process.stdout)

    def _exchange(self, request: bytes, seconds: float, kill: Callable[[int, int], None]) -> dict[str, Any]:
        """Its answer to the request; to none, its first."""
        deadline = time.monotonic() + seconds
        try:
            self._send(memoryview(request), deadline)
            line = self._receive(deadline)
        except TimeoutError:
            end(self._process, kill=kill)
            raise NoAnswer(f"no answer within {seconds:g} s") from None
        except BrokenPipeError:
            raise self._ended() from None
        self._owes = False
        told: dict[str, Any] = json.loads(line)
        return told

    def _send(self, request: memoryview, deadline: float) -> None:
        while request:
            _await(self._stdin, select.POLLOUT, deadline)
            request = request[os.write(self._stdin.fileno(), request) :]

    def _receive(self, deadline: float) -> bytes:
        while b"\n" not in self._received:
            _await(self._stdout, select.POLLIN, deadline)
            part = os.read(self._stdout.fileno(), 1 << 20)
            if not part:
                raise BrokenPipeError
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _ended(self) -> ChildEnded:
        status = wait_for(self._process)
        return ChildEnded(f"signal {-status}" if status < 0 else f"status {status}")


def _await(pipe: IO[bytes], event: int, deadline: float) -> None:
    """Until it can be written to, or read from, or is broken; TimeoutError."""
    waiting = select.poll()
    waiting.register(pipe, event)
    if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


_idle: list[Child] = []
_lock = threading.Lock()


@contextmanager
def borrowed() -> Iterator[Child]:
    """A child that nobody else asks meanwhile."""
    reap_stuck()
    child = _take() or _start()
    try:
        yield child
    finally:
        _give_back(child)


def _take() -> Child | None:
    with _lock:
        while _idle:
            child = _idle.pop()
            if child.is_ready:
                return child
            child.dismiss()
    return None


def _start() -> Child:
    try:
        return Child()
    except (OSError, ChildStuckError) as error:
        raise ChildNotStarted(f"no process could be started to ask with ({error})") from error


def _give_back(child: Child) -> None:
    with _lock:
        if child.is_ready and len(_idle) < IDLE_AT_MOST:
            _idle.append(child)
            return
    child.dismiss()


@atexit.register
def dismiss_idle() -> None:
    """End those that nobody asks anything."""
    while child := _take():
        child.dismiss()


def call(
    operation: str,
    *arguments: Any,
    seconds: float,
    kill: Callable[[int, int], None] = os.killpg,
) -> Any:
    """Ask any child. Errors as `Child.ask`."""
    with borrowed() as child:
        return child.ask(operation, *arguments, seconds=seconds, kill=kill)


def read_in_child(path: Path, size: int) -> bytes:
    """The file's first bytes. OSError; ChildStuckError if that does not return in time: whether or not a
    signal ended it, the next to read there would wait as long."""
    try:
        return str(call("read-file", str(path), size, seconds=READ_SECONDS)).encode(CODING)
    except NoAnswer as error:
        raise ChildStuckError(f"{path} is not read: {error}") from error
