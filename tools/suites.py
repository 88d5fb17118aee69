"""Run the suites of tests/suites.toml within their budgets, and print what they took."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from tools.pace import VARIABLE, slowness
from tools.servers import postgres_server

ROOT = Path(__file__).resolve().parent.parent
SUITES = ROOT / "tests" / "suites.toml"
GRACE_SECONDS = 30
NEVER = threading.Event()


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One row of the table: a pytest run over `tests` by that many `workers`, or another `command`.

    One that keeps a single core busy may run `beside` others that do the same: on the second core, from the
    first of them on, and after those that are there already; what follows the last of them waits for it.
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
        return f"{self.suite.name:<16} {self.verdict:<12} {self.seconds:>6.0f} s of {self.suite.budget:>4} s"


@dataclass
class Running:
    """A suite that was started. `spare` are seconds that suites before it have left of their budgets."""

    suite: Suite
    process: subprocess.Popen[bytes]
    began: float
    spare: float = 0

    def outcome(self, *, unless: threading.Event = NEVER) -> Outcome:
        """Wait for its end; stop it when its budget and what it was left are spent, or `unless` happens."""
        until = self.began + self.suite.budget + self.spare
        try:
            while self.process.poll() is None and time.monotonic() < until and not unless.is_set():
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(min(0.5, max(0.0, until - time.monotonic())))
            code = self.process.poll()
        finally:
            stop(self.process)
        verdict = "over budget" if code is None else "failed" if code else "passed"
        return Outcome(suite=self.suite, verdict=verdict, seconds=time.monotonic() - self.began)


def main(names: list[str]) -> int:
    known = {
        name: _stretched(Suite(name=name, **row)) for name, row in tomllib.loads(SUITES.read_text()).items()
    }
    if unknown := [name for name in names if name not in known]:
        print(f"There is no suite {', '.join(unknown)}; there are {', '.join(known)}.")
        return 2
    if slowness() > 1:
        print(f"This machine may take {slowness()} times as long as the one that budgets are for.")
    hear_interrupts()
    outcomes = run_suites([known[name] for name in names or known])
    print("", *outcomes, sep="\n")
    passed = sum(outcome.verdict == "passed" for outcome in outcomes)
    print(f"suites: {passed} passed, {len(outcomes) - passed} failed")
    return 0 if passed == len(outcomes) else 1


def _stretched(suite: Suite) -> Suite:
    return replace(suite, budget=round(suite.budget * slowness()))


class SecondCore:
    """Runs suites beside those of the first core, one after the other; what one leaves is for the next."""

    def __init__(self) -> None:
        self._hands = ThreadPoolExecutor(1)
        self._ahead: list[tuple[Suite, Future[tuple[Outcome, str]]]] = []
        self._spare: float | None = None
        self._over = threading.Event()

    def add(self, suite: Suite, *, spare: float) -> None:
        """The first one may have what was left before it."""
        if self._spare is None:
            self._spare = spare
        self._ahead.append((suite, self._hands.submit(self._run, suite)))

    def outcomes(self, *, before: set[str]) -> Iterator[Outcome]:
        """Wait for those that run beside none of the suites that are still to come, which are named."""
        over = [(suite, future) for suite, future in self._ahead if not before & {*suite.beside}]
        self._ahead = [one for one in self._ahead if one not in over]
        for suite, future in over:
            outcome, printed = future.result()
            announce(suite)
            print(printed, end="", flush=True)
            yield outcome

    def close(self) -> None:
        """Nothing of it goes on."""
        self._over.set()
        self._hands.shutdown(cancel_futures=True)

    def _run(self, suite: Suite) -> tuple[Outcome, str]:
        spare = self._spare or 0.0
        with tempfile.TemporaryFile() as output, started(suite, spare=spare, output=output) as running:
            outcome = running.outcome(unless=self._over)
            output.seek(0)
            printed = output.read().decode(errors="replace")
        self._spare = max(0.0, spare + suite.budget - outcome.seconds)
        return outcome, printed


def run_suites(suites: Sequence[Suite]) -> list[Outcome]:
    """One after the other, but for those that run beside others; what one leaves is for those after it."""
    names = {suite.name for suite in suites}
    waiting = [suite for suite in suites if names & {*suite.beside}]
    queue = [suite for suite in suites if suite not in waiting]
    outcomes: list[Outcome] = []
    spare = 0.0
    with closing(SecondCore()) as second:
        for number, suite in enumerate(queue, 1):
            for other in [other for other in waiting if suite.name in other.beside]:
                waiting.remove(other)
                second.add(other, spare=spare)
            outcomes.append(run_suite(suite, spare=spare))
            spare = max(0.0, spare + suite.budget - outcomes[-1].seconds)
            outcomes += second.outcomes(before={later.name for later in queue[number:]})
    return outcomes


def run_suite(suite: Suite, *, spare: float = 0) -> Outcome:
    announce(suite)
    with started(suite, spare=spare) as running:
        return running.outcome()


def hear_interrupts() -> None:
    """A shell's background ignores them, and every suite would inherit that: it could not be stopped."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def announce(suite: Suite) -> None:
    print(f"\n==== {suite.name}: at most {suite.budget} s ====", flush=True)


@contextmanager
def started(suite: Suite, *, spare: float = 0, output: IO[bytes] | None = None) -> Iterator[Running]:
    """The suite as it runs; at the end it is stopped. It prints to `output`, or else to where we do."""
    with environment(suite.database) as variables:
        began = time.monotonic()
        process = subprocess.Popen(
            suite.words, cwd=ROOT, env=variables, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield Running(suite, process, began, spare)
        finally:
            stop(process)


@contextmanager
def environment(database: str) -> Iterator[dict[str, str]]:
    """The variables for a suite: nothing of the caller's Leasehold, and the database it asks for."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("LEASEHOLD_")}
    variables[VARIABLE] = str(slowness())
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
