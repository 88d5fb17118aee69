"""The time of a history, which passes only when somebody waits, or says so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


@dataclass
class Clock:
    """`elapsed` are seconds since the beginning. The host's own clock may be wrong by `skew`."""

    now: datetime = START
    skew: timedelta = timedelta()
    elapsed: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.elapsed += seconds

    def monotonic(self) -> float:
        return self.elapsed

    @property
    def on_the_host(self) -> datetime:
        return self.now + self.skew
