"""From what is busy to what is open: pure arithmetic on spans of microseconds since 1970.

An opening is `gpus` GPUs that are all free in `[starts, ends)`, where no longer span around it has as many.
"At each moment two are free" is not enough for a lease: it needs the same two throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

ALWAYS = 0
FOREVER = 1 << 62
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

# Lengths are classed by quarter hours, then by 16 and by 256 of them. What is longer shares the last class.
QUARTER = 15 * 60 * 1_000_000
LAST_BOUNDED = 4095
UNENDING = 4096
UNBEGUN = 4097


class Span(NamedTuple):
    """`[starts, ends)`."""

    starts: int
    ends: int


def first_beside(spans: Iterable[Span], start: int, length: int) -> int:
    """The first start, from this one on, of a span of this length that overlaps none of them."""
    for span in sorted(spans):
        if start < span.ends and start + length > span.starts:
            start = span.ends
    return start


class Open(NamedTuple):
    """`gpus` GPUs are free together in `[starts, ends)`."""

    starts: int
    ends: int
    gpus: int


EVER = Span(ALWAYS, FOREVER)


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def moment(value: int) -> datetime:
    return EPOCH + timedelta(microseconds=value)


def gaps(busy: Iterable[Span]) -> list[Span]:
    """What is free around busy spans, which may touch or overlap."""
    free, since = [], ALWAYS
    for span in sorted(busy):
        if span.starts > since:
            free.append(Span(since, span.starts))
        since = max(since, span.ends)
    if since < FOREVER:
        free.append(Span(since, FOREVER))
    return free


def openings(free: Sequence[Sequence[Span]]) -> Iterator[Open]:
    """Every opening of GPUs with these gaps, one list a GPU, by start.

    From each start on, the n-th latest end among the gaps that are open then is how long n GPUs last. It is
    an opening if nothing that began earlier lasts as long; equal spans are given once, with the most GPUs.
    """
    lasting = [ALWAYS] * (len(free) + 1)
    open_until = [ALWAYS] * len(free)
    begins = sorted((gap.starts, number, gap.ends) for number, one in enumerate(free) for gap in one)
    for start, beginning in groupby(begins, itemgetter(0)):
        for _, number, end in beginning:
            open_until[number] = end
        ends = sorted((end for end in open_until if end > start), reverse=True)
        given = ALWAYS
        for gpus in range(len(ends), 0, -1):
            end = ends[gpus - 1]
            if end > lasting[gpus]:
                lasting[gpus] = end
                if end != given:
                    yield Open(start, end, gpus)
                    given = end


def touching(spans: Iterable[Span], region: Span) -> list[Span]:
    """Those that overlap the region or meet its edge."""
    return [span for span in spans if span.starts <= region.ends and span.ends >= region.starts]


def clipped(found: Iterable[Open], now: int) -> set[Open]:
    """The openings from `now` on: the past counts as free, and what lies within another is left out.

    By start, and of those the longest and widest first: whatever one lies within has come before it.
    """
    ahead = {Open(max(one.starts, now), one.ends, one.gpus) for one in found if one.ends > now}
    lasting = [ALWAYS] * (max((one.gpus for one in ahead), default=0) + 1)
    kept = set()
    for one in sorted(ahead, key=lambda one: (one.starts, -one.ends, -one.gpus)):
        if max(lasting[one.gpus :]) < one.ends:
            kept.add(one)
        lasting[one.gpus] = max(lasting[one.gpus], one.ends)
    return kept


def length_classes(starts: int, ends: int) -> tuple[int, int | None, int | None]:
    """The fine, middle and coarse class of an opening's length; one without an end or start has its own."""
    if ends == FOREVER:
        return UNENDING, None, None
    if starts == ALWAYS:
        return UNBEGUN, None, None
    fine = min((ends - starts) // QUARTER, LAST_BOUNDED)
    return fine, fine >> 4, fine >> 8


class Classes(NamedTuple):
    """The classes of each level that hold every bounded opening of at least some length, at most 46 together.

    Only the first may also hold shorter ones.
    """

    fine: range
    middle: range
    coarse: range


def classes_from(length: int) -> Classes:
    """Where to look for openings of at least this length."""
    fine = min(length // QUARTER, LAST_BOUNDED)
    middle, coarse = (fine >> 4) + 1, (fine >> 8) + 1
    last_middle, last_coarse = LAST_BOUNDED >> 4, LAST_BOUNDED >> 8
    whole = middle > last_middle or middle % 16 == 0
    return Classes(
        fine=_up_to_next(fine),
        middle=range(0) if whole else _up_to_next(middle),
        coarse=range(coarse, last_coarse + 1),
    )


def _up_to_next(number: int) -> range:
    return range(number, (number | 15) + 1)
