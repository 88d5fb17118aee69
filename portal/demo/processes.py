"""The demo's processes: started together, watched, and stopped together, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STOP_SECONDS = 45


class DemoFailed(Exception):
    """The demo cannot go on; the text says why and where to look."""


@dataclass
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class Household:
    """Child processes in the order of their start. Each writes to its own log in `logs`."""

    logs: Path
    environment: Mapping[str, str]
    children: list[Child] = field(default_factory=list)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a child that dies with this process, in a session of its own: Ctrl-C reaches us alone."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        self.children.append(Child(name, process, log))

    def check(self) -> None:
        """DemoFailed if a child has ended by itself."""
        for child in self.children:
            if (status := child.process.poll()) is not None:
                raise DemoFailed(
                    f"“{child.name}” ended with status {status}. Its last words:\n{_tail(child.log)}"
                )

    def wait_for(self, ready: Callable[[], bool], what: str, *, seconds: float) -> None:
        """Return once `ready`; DemoFailed if a child dies or it takes longer."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"{what} took longer than {seconds:.0f} s. The logs are in {self.logs}.")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop every child, last started first; one that does not end in time is killed."""
        while self.children:
            child = self.children.pop()
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
            try:
                child.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()


def python(*words: str) -> list[str]:
    return [sys.executable, *words]


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
