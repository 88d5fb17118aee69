"""The worker's threads, of which one runs at a time: each until it waits for a call that takes its time."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from greenlet import getcurrent, greenlet

from tests.agent.campaign.clock import Clock

T = TypeVar("T")
FOR_EVER = math.inf


class PowerCut(BaseException):
    """The worker's process ends here: nothing of it runs any more. Not an Exception, so nobody handles it."""


@dataclass(eq=False)
class Strand:
    """One thread. `until` is when the call that it waits for returns, in the clock's seconds."""

    fibre: greenlet
    until: float = 0.0


@dataclass
class Strands:
    """Those of one `process` after the other. `waiting` are in the middle of a call, by name.

    `on_wait` is told before one begins to wait.
    """

    clock: Clock
    waiting: dict[object, Strand] = field(default_factory=dict)
    on_wait: Callable[[], None] = lambda: None
    process: int = 0
    _begun: dict[greenlet, Strand] = field(default_factory=dict)

    def run(self, name: object, work: Callable[[], T]) -> T | None:
        """Begin the work, or go on with what waits under that name; None if it waits again."""
        strand = self.waiting.pop(name, None) or self._begin(work)
        strand.fibre.parent = getcurrent()
        try:
            result: T = strand.fibre.switch()
        finally:
            if strand.fibre.dead:
                del self._begun[strand.fibre]
        if strand.fibre.dead:
            return result
        self.waiting[name] = strand
        return None

    def _begin(self, work: Callable[[], Any]) -> Strand:
        fibre = greenlet(work)
        strand = self._begun[fibre] = Strand(fibre)
        return strand

    def is_ready(self, name: object) -> bool:
        """Whether it waits for nothing, or for nothing any more."""
        return name not in self.waiting or self.waiting[name].until <= self.clock.elapsed

    def hung(self) -> set[object]:
        """Those whose call never returns."""
        return {name for name, strand in self.waiting.items() if strand.until == FOR_EVER}

    def slow(self) -> set[object]:
        """Those whose call returns in a while."""
        return self.waiting.keys() - self.hung()

    def wait(self, seconds: float) -> None:
        """The call takes so long. Without a thread of its own it keeps all waiting, or somebody ends it."""
        self.on_wait()
        strand = self._begun.get(getcurrent())
        if strand is not None:
            strand.until = self.clock.elapsed + seconds
            strand.fibre.parent.switch()
        elif seconds == FOR_EVER:
            self.cut()
        else:
            self.clock.sleep(seconds)

    def cut(self) -> NoReturn:
        """The process ends, here and now: of what was under way nothing is tidied up."""
        outside = getcurrent()
        while outside in self._begun:
            outside = outside.parent
        if outside is not getcurrent():
            outside.throw(PowerCut)
        raise PowerCut

    def forget(self) -> None:
        """The process is gone, and its threads with it, wherever they were."""
        self.waiting.clear()
        self.process += 1

    def unwind(self) -> None:
        """The history is over: whatever was never finished lets go of its memory."""
        self.waiting.clear()
        while self._begun:
            fibre, _ = self._begun.popitem()
            fibre.parent = getcurrent()
            with suppress(BaseException):
                fibre.throw(PowerCut)


class StrandLock:
    """A lock for strands: whoever does not get it lets others go on meanwhile. It ends with the process."""

    def __init__(self, strands: Strands) -> None:
        self._strands = strands
        self._held_in = -1

    def acquire(self, timeout: float = FOR_EVER) -> bool:
        until = self._strands.clock.elapsed + timeout
        while self._held_in == self._strands.process:
            if self._strands.clock.elapsed >= until:
                return False
            self._strands.wait(1.0)
        self._held_in = self._strands.process
        return True

    def release(self) -> None:
        self._held_in = -1

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
