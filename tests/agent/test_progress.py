"""How far long work has come, as a terminal shows it and as a file keeps it."""

from __future__ import annotations

import io
import re

import pytest

from hosts.agent.cli.progress import Progress, size

GIB = 1 << 30


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def scrubbed(out: io.StringIO, *, parts: int) -> str:
    """A scrub of 16 GiB in two steps, each of so many parts, each part in half a second."""
    clock = Clock()
    progress = Progress("scrub", out, clock=clock)
    for index, name in enumerate(("fill", "verify"), start=6):
        progress.begin({"name": name, "index": index, "total": 9})
        for part in range(1, parts + 1):
            clock.now += 0.5
            progress.advance(part * 16 * GIB // parts, 16 * GIB)
    progress.close()
    return out.getvalue()


def test_a_terminal_shows_percent_and_rate_in_one_line_for_each_step() -> None:
    told = scrubbed(Terminal(), parts=64)
    assert told.count("\n") == 2
    assert told.endswith("\r\x1b[Kscrub: verify (7 of 9) 100 %, 512.0 MiB/s\n")
    assert "\r\x1b[Kscrub: fill (6 of 9) 1 %, 512.0 MiB/s\r" in told


@pytest.mark.parametrize("parts", [1, 7, 64, 10_000])
def test_a_file_gets_a_bounded_number_of_lines(parts: int) -> None:
    lines = scrubbed(io.StringIO(), parts=parts).splitlines()
    for name, index in (("fill", 6), ("verify", 7)):
        step = f"scrub: {name} ({index} of 9)"
        mine = [line for line in lines if line.startswith(step)]
        assert mine[0] == step
        percents = [int(found[1]) for line in mine[1:] if (found := re.search(r" (\d+) %, ", line))]
        assert percents == sorted(set(percents))
        assert percents[-1] == 100
        assert len(mine) == len(percents) + 1 <= 11


def test_another_scrubber_of_the_same_step_begins_anew() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("scrub", out, clock=clock)
    progress.begin({"name": "fill", "index": 6, "total": 9})
    for done in (50, 100, 10, 100):
        clock.now += 1
        progress.advance(done, 100)
    told = [line.partition(") ")[2] for line in out.getvalue().splitlines()]
    assert told == ["", "50 %, 50 B/s", "100 %, 50 B/s", "10 %", "100 %, 90 B/s"]


def test_nothing_is_divided_by_no_time_and_no_total() -> None:
    out = io.StringIO()
    progress = Progress("scrub", out, clock=Clock())
    progress.begin({"name": "fill", "index": 1, "total": 1})
    progress.advance(100, 100)
    progress.advance(0, 0)
    assert out.getvalue().splitlines()[1] == "scrub: fill (1 of 1) 100 %"


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (GIB, "1.0 GiB"), (5000 << 40, "5000.0 TiB")],
)
def test_sizes_are_told_in_the_largest_unit_that_fits(count: int, told: str) -> None:
    assert size(count) == told
