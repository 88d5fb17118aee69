"""How far long work has come: a line that is rewritten on a terminal, and now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TextIO

# Elsewhere than on a terminal: at most ten lines for each step.
PERCENT_BETWEEN_LINES = 10
_BACK_AND_CLEAR = "\r\x1b[K"
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


class Progress:
    """Told of each step, and of bytes done within it. `clock` counts seconds."""

    def __init__(self, name: str, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._out = out
        self._clock = clock
        self._rewrites = out.isatty()
        self._step = ""
        self._began = (0.0, 0)
        self._done = self._next = 0

    def begin(self, step: dict[str, Any]) -> None:
        self.close()
        self._step = f"{self._name}: {step['name']} ({step['index']} of {step['total']})"
        self._begin_at(0)
        self._write(self._step)

    def advance(self, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        if done < self._done:  # another scrubber of the same step
            self._begin_at(done)
        self._done = done
        if self._rewrites or percent >= self._next:
            self._next = percent - percent % PERCENT_BETWEEN_LINES + PERCENT_BETWEEN_LINES
            self._write(f"{self._step} {percent} %{self._rate(done)}")

    def close(self) -> None:
        """Nothing is rewritten any more."""
        if self._rewrites and self._step:
            print(file=self._out)
        self._step = ""

    def _begin_at(self, done: int) -> None:
        self._began, self._done, self._next = (self._clock(), done), done, PERCENT_BETWEEN_LINES

    def _rate(self, done: int) -> str:
        at, before = self._began
        seconds = self._clock() - at
        return f", {size(int((done - before) / seconds))}/s" if seconds > 0 and done > before else ""

    def _write(self, line: str) -> None:
        if self._rewrites:
            print(f"{_BACK_AND_CLEAR}{line}", end="", file=self._out, flush=True)
        else:
            print(line, file=self._out, flush=True)


def size(count: int) -> str:
    """Such as 1.5 GiB."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_SIZES[unit]}" if unit else f"{count} {_SIZES[0]}"
