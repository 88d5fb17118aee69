"""Run the suites of tests/suites.toml one after the other, within their budgets, and print what they took."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools.servers import postgres_server

ROOT = Path(__file__).resolve().parent.parent
SUITES = ROOT / "tests" / "suites.toml"
GRACE_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One row of the table: a pytest run over `tests` by that many `workers`, or another `command`."""

    name: str
    budget: int
    tests: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    database: str = "sqlite"
    workers: int = 1

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


def main(names: list[str]) -> int:
    known = {name: Suite(name=name, **row) for name, row in tomllib.loads(SUITES.read_text()).items()}
    if unknown := [name for name in names if name not in known]:
        print(f"There is no suite {', '.join(unknown)}; there are {', '.join(known)}.")
        return 2
    outcomes = [run_suite(known[name]) for name in names or known]
    print("", *outcomes, sep="\n")
    passed = sum(outcome.verdict == "passed" for outcome in outcomes)
    print(f"suites: {passed} passed, {len(outcomes) - passed} failed")
    return 0 if passed == len(outcomes) else 1


def run_suite(suite: Suite) -> Outcome:
    print(f"\n==== {suite.name}: at most {suite.budget} s ====", flush=True)
    began = time.monotonic()
    with environment(suite.database) as variables:
        process = subprocess.Popen(suite.words, cwd=ROOT, env=variables, start_new_session=True)
        try:
            verdict = "failed" if process.wait(suite.budget) else "passed"
        except subprocess.TimeoutExpired:
            verdict = "over budget"
        finally:
            stop(process)
    return Outcome(suite=suite, verdict=verdict, seconds=time.monotonic() - began)


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
