"""The runner of the suites: a suite that fails, or takes too long, must never look as if it had passed."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tools import pace, suites


@pytest.fixture(autouse=True)
def as_fast_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "slowness", lambda: 1.0)
    suites.hear_interrupts()


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
    began, enough_to_begin = time.monotonic(), round(3 * pace.slowness())
    assert suites.run_suite(suite(code, budget=enough_to_begin)).verdict == "over budget"
    assert time.monotonic() - began < enough_to_begin + suites.GRACE_SECONDS
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


def test_what_runs_beside_others_runs_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = f"import pathlib; lock = pathlib.Path({str(tmp_path / 'lock')!r}); lock.touch(exist_ok=False)"
    code = f"{alone}\nimport time; time.sleep(0.3); lock.unlink()"
    listed = tmp_path / "suites.toml"
    listed.write_text(
        '[short]\ncommand = ["true"]\nbudget = 30\n'
        + "".join(
            f"[{name}]\ncommand = {[sys.executable, '-c', code]!r}\nbudget = 30\nbeside = ['short']\n"
            for name in ("one", "two")
        )
    )
    monkeypatch.setattr(suites, "SUITES", listed)
    assert suites.main([]) == 0


def test_what_runs_beside_others_is_stopped_with_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever gives up meanwhile leaves nothing behind."""
    begun, tidy = tmp_path / "begun", tmp_path / "tidy"
    code = f"import pathlib, time\ntry:\n pathlib.Path({str(begun)!r}).touch(); time.sleep(60)\n"
    code += f"finally:\n pathlib.Path({str(tidy)!r}).touch()"

    def give_up(_suite: suites.Suite, *, spare: float) -> suites.Outcome:
        while not begun.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(suites, "run_suite", give_up)
    first = suites.Suite(name="first", budget=60, command=["true"])
    beside = replace(suite(code, budget=60), beside=["first"])
    with pytest.raises(KeyboardInterrupt):
        suites.run_suites([first, beside, replace(beside, name="behind")])
    assert tidy.exists()


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


def test_a_slow_machine_has_longer_for_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "suites.toml"
    listed.write_text('[slow]\ncommand = ["sleep", "1.5"]\nbudget = 1\n')
    monkeypatch.setattr(suites, "SUITES", listed)
    assert suites.main([]) == 1
    monkeypatch.setattr(suites, "slowness", lambda: 3.0)
    assert suites.main([]) == 0
    assert "may take 3.0 times as long" in capsys.readouterr().out


def test_no_machine_has_less_time_or_any_length_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pace.VARIABLE, raising=False)
    twice = pace.REFERENCE_SECONDS * 2
    for seconds, factor in ((0.0001, 1.0), (twice, 2 * pace.SWAY), (100.0, pace.SLOWEST)):
        monkeypatch.setattr(pace, "_seconds", lambda seconds=seconds: seconds)
        pace.slowness.cache_clear()
        assert pace.slowness() == factor
    pace.slowness.cache_clear()
    monkeypatch.setenv(pace.VARIABLE, "2.5")
    assert pace.slowness() == 2.5
    pace.slowness.cache_clear()
