"""Run the suites of tests/suites.toml within their budgets, and print what they took."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tools.servers import postgres_server

ROOT = Path(__file__).resolve().parent.parent
SUITES = ROOT / "tests" / "suites.toml"
GRACE_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One row of the table: a pytest run over `tests` by that many `workers`, or another `command`.

    One that keeps a single core busy may run `beside` others that do the same: it starts with the first of
    them, and what follows the last of them waits for it.
    """

    name: str
    budget: int
    tests: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    database: str = "sqlite"
    workers: int = 1
    beside: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        shared = ["--numprocesses", str(self.workers), "--dist", "loadfile"] if self.workers > 1 else []
        return self.command or [sys.executable, "-m", "pytest", *shared, *self.tests]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one suite went."""

    suite: Suite
    verdict: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.suite.name:<10} {self.verdict:<12} {self.seconds:>6.0f} s of {self.suite.budget:>4} s"


@dataclass
class Running:
    """A suite that was started; what it prints goes to `output`, or else to where ours does.

    `spare` are seconds that suites before it have left of their budgets.
    """

    suite: Suite
    process: subprocess.Popen[bytes]
    began: float
    output: IO[bytes] | None
    spare: float = 0

    def outcome(self) -> Outcome:
        """Wait for its end, or stop it when its budget and what it was left are spent."""
        left = self.suite.budget + self.spare - (time.monotonic() - self.began)
        try:
            verdict = "failed" if self.process.wait(max(0, left)) else "passed"
        except subprocess.TimeoutExpired:
            verdict = "over budget"
        finally:
            stop(self.process)
        seconds = time.monotonic() - self.began
        if self.output is not None:
            announce(self.suite)
            self.output.seek(0)
            sys.stdout.write(self.output.read().decode(errors="replace"))
        return Outcome(suite=self.suite, verdict=verdict, seconds=seconds)


def main(names: list[str]) -> int:
    known = {name: Suite(name=name, **row) for name, row in tomllib.loads(SUITES.read_text()).items()}
    if unknown := [name for name in names if name not in known]:
        print(f"There is no suite {', '.join(unknown)}; there are {', '.join(known)}.")
        return 2
    outcomes = run_suites([known[name] for name in names or known])
    print("", *outcomes, sep="\n")
    passed = sum(outcome.verdict == "passed" for outcome in outcomes)
    print(f"suites: {passed} passed, {len(outcomes) - passed} failed")
    return 0 if passed == len(outcomes) else 1


def run_suites(suites: Sequence[Suite]) -> list[Outcome]:
    """One after the other, but for those that run beside others; what one leaves is for those after it."""
    names = {suite.name for suite in suites}
    waiting = [suite for suite in suites if names & {*suite.beside}]
    queue = [suite for suite in suites if suite not in waiting]
    outcomes: list[Outcome] = []
    spare = 0.0
    with ExitStack() as stack:
        running: list[Running] = []
        for number, suite in enumerate(queue, 1):
            for other in [other for other in waiting if suite.name in other.beside]:
                waiting.remove(other)
                running.append(stack.enter_context(started(other, spare=spare, apart=True)))
            outcomes.append(run_suite(suite, spare=spare))
            spare = max(0.0, spare + suite.budget - outcomes[-1].seconds)
            ahead = {later.name for later in queue[number:]}
            over = [one for one in running if not ahead & {*one.suite.beside}]
            outcomes += [one.outcome() for one in over]
            running = [one for one in running if one not in over]
    return outcomes


def run_suite(suite: Suite, *, spare: float = 0) -> Outcome:
    announce(suite)
    with started(suite, spare=spare) as running:
        return running.outcome()


def announce(suite: Suite) -> None:
    print(f"\n==== {suite.name}: at most {suite.budget} s ====", flush=True)


@contextmanager
def started(suite: Suite, *, spare: float = 0, apart: bool = False) -> Iterator[Running]:
    """The suite as it runs; at the end it is stopped. `apart` keeps what it prints until it is over."""
    with environment(suite.database) as variables, ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile()) if apart else None
        began = time.monotonic()
        process = subprocess.Popen(
            suite.words, cwd=ROOT, env=variables, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield Running(suite, process, began, output, spare)
        finally:
            stop(process)


@contextmanager
def environment(database: str) -> Iterator[dict[str, str]]:
    """The variables for a suite: nothing of the caller's Leasehold, and the database it asks for."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("LEASEHOLD_")}
    if database == "postgres":
        with postgres_server() as dsn:
            yield variables | {"LEASEHOLD_DATABASE": dsn}
    else:
        with tempfile.TemporaryDirectory(prefix="leasehold-sqlite-") as folder:
            yield variables | {"LEASEHOLD_TEST_SQLITE": f"{folder}/test.sqlite3"}


def stop(process: subprocess.Popen[bytes]) -> None:
    """Let a suite that still runs tear its fixtures down; then end what is left of it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
