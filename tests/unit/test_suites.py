"""The runner of the suites: a suite that fails, or takes too long, must never look as if it had passed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tools import suites


def suite(code: str, *, budget: int = 20) -> suites.Suite:
    return suites.Suite(name="trial", budget=budget, command=[sys.executable, "-c", code])


def test_verdicts_follow_the_exit_status() -> None:
    assert suites.run_suite(suite("pass")).verdict == "passed"
    assert suites.run_suite(suite("raise SystemExit(5)")).verdict == "failed"


def test_a_suite_that_takes_too_long_is_stopped_and_may_tidy_up(tmp_path: Path) -> None:
    code = f"""
import pathlib, time
try:
    time.sleep(60)
finally:
    pathlib.Path({str(tmp_path / "tidy")!r}).touch()
"""
    began = time.monotonic()
    assert suites.run_suite(suite(code, budget=1)).verdict == "over budget"
    assert time.monotonic() - began < 20
    assert (tmp_path / "tidy").exists()


def test_the_callers_database_is_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASEHOLD_DATABASE", "postgresql://live/leasehold")
    code = "import os; assert 'LEASEHOLD_DATABASE' not in os.environ"
    assert suites.run_suite(suite(code)).verdict == "passed"


def test_an_unknown_suite_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert suites.main(["nosuch"]) == 2
    assert "There is no suite nosuch" in capsys.readouterr().out


def test_one_failure_fails_the_whole_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "suites.toml"
    listed.write_text('[bad]\ncommand = ["false"]\nbudget = 9\n[good]\ncommand = ["true"]\nbudget = 9\n')
    monkeypatch.setattr(suites, "SUITES", listed)
    assert suites.main([]) == 1
    assert capsys.readouterr().out.endswith("suites: 1 passed, 1 failed\n")


def test_a_suite_runs_beside_those_that_it_names_and_before_what_follows_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`one` waits for `long`, which waits for `two`: only so do they all end. `last` looks for both."""

    def row(name: str, code: str, more: str = "") -> str:
        return f"[{name}]\ncommand = {[sys.executable, '-c', code]!r}\nbudget = 30\n{more}\n"

    def seen(name: str) -> str:
        return f"pathlib.Path({str(tmp_path / name)!r})"

    wait = "\nwhile not {0}.exists(): time.sleep(0.01)"
    start = "import pathlib, time"
    listed = tmp_path / "suites.toml"
    listed.write_text(
        row("one", start + wait.format(seen("long")))
        + row("two", f"{start}\n{seen('two')}.touch()")
        + row("last", f"{start}\nassert {seen('over')}.exists()")
        + row(
            "long",
            f"{start}\nprint('spoke')\n{seen('long')}.touch()"
            + wait.format(seen("two"))
            + f"\n{seen('over')}.touch()",
            'beside = ["one", "two"]',
        )
    )
    monkeypatch.setattr(suites, "SUITES", listed)
    assert suites.main([]) == 0
    printed = capfd.readouterr().out
    assert (
        printed.index("==== two")
        < printed.index("==== long")
        < printed.index("spoke")
        < printed.index("==== last")
    )


def test_what_runs_beside_others_has_a_budget_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = tmp_path / "suites.toml"
    listed.write_text(
        '[short]\ncommand = ["true"]\nbudget = 9\n'
        '[long]\ncommand = ["sleep", "60"]\nbudget = 1\nbeside = ["short"]\n'
    )
    monkeypatch.setattr(suites, "SUITES", listed)
    assert suites.main([]) == 1
    assert suites.main(["long"]) == 1


def test_what_a_suite_leaves_is_for_those_after_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = tmp_path / "suites.toml"
    quick = '[quick]\ncommand = ["true"]\nbudget = 30\n'
    slow = '[slow]\ncommand = ["sleep", "1.5"]\nbudget = 1\n'
    monkeypatch.setattr(suites, "SUITES", listed)
    listed.write_text(quick + slow)
    assert suites.main([]) == 0
    listed.write_text(slow + quick)
    assert suites.main([]) == 1
