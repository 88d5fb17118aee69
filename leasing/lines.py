"""The line for a GPU model: who is before whom, what fits whom, and what is kept for the first. Pure.

**The order.** Everybody has a rank, fixed on joining: the time of joining plus a *setback*, which is between
nothing and LONGEST_SETBACK and grows with what the team has had. Lower ranks come first. So whoever joins
later than somebody's rank never gets before them: nobody is overtaken for longer than the longest setback.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import TypeVar

from leasing.openings.spans import Open, Span, first_beside
from leasing.timing import CLAIM_WINDOW, LONGEST_SETBACK, SHORTEST_CLAIM

G = TypeVar("G", bound=Hashable)
K = TypeVar("K", bound=Hashable)

# A team that had twice its fair share, or more, is set back as far as anybody.
WORST = 2


@dataclass(frozen=True)
class Share:
    """GPU seconds of one model that a team has had lately or waits for, and the team's weight."""

    gpu_seconds: int
    weight: int


def times_fair(own: Share, everybody: Iterable[Share]) -> Fraction:
    """How many times its fair share, by weight, a team has had of what all, itself included, have had."""
    shares = list(everybody)
    total, weights = sum(one.gpu_seconds for one in shares), sum(one.weight for one in shares)
    return Fraction(own.gpu_seconds * weights, total * own.weight) if total else Fraction(0)


def setback(times: Fraction) -> timedelta:
    """How much later than it does a team joins the line: half the longest at its fair share."""
    microseconds = LONGEST_SETBACK // timedelta(microseconds=1)
    return timedelta(microseconds=int(microseconds * min(Fraction(1), times / WORST)))


def claim_until(starts_at: datetime, duration: timedelta, *, now: datetime) -> datetime:
    """Until when an offer is held. Claimed after its start it keeps its end: a quarter is lost at most."""
    shortest = min(SHORTEST_CLAIM, duration / 4)
    return now + min(CLAIM_WINDOW, max(shortest, starts_at - now))


@dataclass(frozen=True)
class Wish:
    """What an entry waits for, in microseconds; of what overlaps `apart` it takes nothing."""

    gpus: int
    duration: int
    earliest: int
    last_start: int
    apart: tuple[Span, ...] = ()

    def next_start(self, start: int) -> int | None:
        """The first start from `start` on that it would take; None if that is too late."""
        start = first_beside(self.apart, max(start, self.earliest), self.duration)
        return start if start <= self.last_start else None


def first_start(wish: Wish, found: Iterable[Open], *, lead: int, turnaround: int, now: int) -> int | None:
    """The earliest start that one of these openings has for the wish, with lead and turnaround around it."""
    starts = []
    for opening in found:
        if opening.gpus < wish.gpus:
            continue
        # What is open already may be had without its lead.
        open_from = now if opening.starts <= now else opening.starts + lead
        start = wish.next_start(open_from)
        if start is not None and start + wish.duration + turnaround <= opening.ends:
            starts.append(start)
    return min(starts, default=None)


def fewest_in_the_way(groups: Mapping[K, Mapping[G, int]], count: int) -> tuple[K, list[G]] | None:
    """Where `count` GPUs of one group have the fewest bookings in the way; None if no group is so large.

    `groups` says for each GPU how many bookings are in its way.
    """
    best: tuple[int, K, list[G]] | None = None
    for key in sorted(groups, key=str):
        ranked = sorted(groups[key], key=lambda gpu: (groups[key][gpu], str(gpu)))[:count]
        if len(ranked) == count:
            total = sum(groups[key][gpu] for gpu in ranked)
            if best is None or total < best[0]:
                best = total, key, ranked
    return best[1:] if best else None
