"""What a window costs: a list of terms, each a span at one rate; and what a span at a rate comes to. Pure.

Billing follows the terms as they were quoted. Each lies inside one month of the tenant and is rounded by
itself, so that the price before, the segments and the lines of invoices are sums of the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

SECOND = timedelta(seconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HUNDRED = Decimal(100)
RATE_UNIT = Decimal("0.0001")
# ISO 4217 currencies without a minor unit; all others are taken to have hundredths.
WHOLE_CURRENCIES = frozenset(
    ["BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XPF"]
)


class Span(NamedTuple):
    """A half-open, non-empty span of time."""

    starts_at: datetime
    ends_at: datetime


class Term(NamedTuple):
    """A span that was quoted at one rate."""

    starts_at: datetime
    ends_at: datetime
    rate_per_hour: Decimal


@dataclass(frozen=True)
class Peak:
    """Hours of the week: from one full hour to another, 24 at most, on ISO weekdays of a zone."""

    days: frozenset[int]
    from_hour: int
    until_hour: int
    zone: str


@dataclass(frozen=True)
class Tariff:
    """A rate with a tenant's discount in it: percentages apply to each rate, rounded to its four places."""

    per_hour: Decimal
    currency: str
    off_peak_per_hour: Decimal | None = None
    peak: Peak | None = None
    reserved_after: timedelta = timedelta(0)
    reserved_percent: Decimal = Decimal(0)
    discount_percent: Decimal = Decimal(0)

    def terms(self, starts_at: datetime, ends_at: datetime, *, ahead: timedelta, zone: str) -> list[Term]:
        """The window in terms, when it is booked so long before it begins; months are those of a zone."""
        percent = [self.discount_percent]
        if self.reserved_after and ahead >= self.reserved_after:
            percent.append(self.reserved_percent)
        peak = _less(self.per_hour, percent)
        if self.off_peak_per_hour is None or self.peak is None:
            return _by_month([Term(starts_at, ends_at, peak)], zone)
        off_peak = _less(self.off_peak_per_hour, percent)
        parts = [
            Term(*span, peak if is_peak else off_peak)
            for span, is_peak in peak_spans(self.peak, starts_at, ends_at)
        ]
        return _by_month(parts, zone)


def peak_spans(peak: Peak, starts_at: datetime, ends_at: datetime) -> Iterator[tuple[Span, bool]]:
    """The window cut where peak hours begin and end, and whether each part is one of them.

    What the clock skips begins or ends when it skips; of an hour that comes twice the first one counts.
    """
    zone = ZoneInfo(peak.zone)
    busy: list[Span] = []
    day = starts_at.astimezone(zone).date() - timedelta(days=1)
    while day <= ends_at.astimezone(zone).date():
        if day.isoweekday() in peak.days:
            begin, end = _clock(day, peak.from_hour, zone), _clock(day, peak.until_hour, zone)
            if busy and begin <= busy[-1].ends_at:
                busy[-1] = Span(busy[-1].starts_at, end)
            elif begin < end:
                busy.append(Span(begin, end))
        day += timedelta(days=1)
    cuts = (edge for span in busy for edge in span)
    for one in cut_span(Span(starts_at, ends_at), cuts):
        yield one, any(span.starts_at <= one.starts_at < span.ends_at for span in busy)


def cut_span(span: Span, cuts: Iterable[datetime]) -> list[Span]:
    """The span in parts, cut at those of the moments that lie inside it."""
    inside = sorted({at for at in cuts if span.starts_at < at < span.ends_at})
    return [Span(*pair) for pair in pairwise([span.starts_at, *inside, span.ends_at])]


def month_cuts(starts_at: datetime, ends_at: datetime, zone: str) -> list[datetime]:
    """The beginnings of a zone's months inside a window."""
    local = starts_at.astimezone(ZoneInfo(zone))
    begin = datetime(local.year, local.month, 1, tzinfo=ZoneInfo(zone))
    found = []
    while (begin := (begin + timedelta(days=32)).replace(day=1)).astimezone(UTC) < ends_at:
        found.append(begin.astimezone(UTC))
    return found


def trimmed(terms: Iterable[Term], starts_at: datetime, ends_at: datetime) -> list[Term]:
    """The terms as far as they lie in a window."""
    cut = (one._replace(starts_at=max(one[0], starts_at), ends_at=min(one[1], ends_at)) for one in terms)
    return [one for one in cut if one.starts_at < one.ends_at]


def total_of(terms: Iterable[Term], currency: str) -> Decimal:
    """What the terms come to, used in full."""
    return sum((term_amount(one, currency) for one in terms), Decimal(0))


def term_amount(term: Term, currency: str) -> Decimal:
    seconds = whole_seconds(term.starts_at, term.ends_at)
    return line_amount(seconds=seconds, rate_per_hour=term.rate_per_hour, currency=currency)


def whole_seconds(starts_at: datetime, ends_at: datetime) -> int:
    """Seconds between the whole seconds in which both moments lie, so that adjoining spans add up exactly."""
    return max(0, (ends_at - EPOCH) // SECOND - (starts_at - EPOCH) // SECOND)


def line_amount(*, seconds: int, rate_per_hour: Decimal, currency: str) -> Decimal:
    """Price of one line, rounded once, half to even, to the currency's minor unit."""
    return rounded(seconds * rate_per_hour / 3600, currency)


def rounded(amount: Decimal, currency: str) -> Decimal:
    """To the currency's minor unit, half to even."""
    unit = Decimal(1) if currency in WHOLE_CURRENCIES else Decimal("0.01")
    return amount.quantize(unit, ROUND_HALF_EVEN)


def _less(rate: Decimal, percents: Iterable[Decimal]) -> Decimal:
    for percent in percents:
        rate = rate * (HUNDRED - percent) / HUNDRED
    return rate.quantize(RATE_UNIT, ROUND_HALF_EVEN)


def _by_month(terms: list[Term], zone: str) -> list[Term]:
    return [
        Term(*part, one.rate_per_hour)
        for one in terms
        for part in cut_span(Span(one.starts_at, one.ends_at), month_cuts(one.starts_at, one.ends_at, zone))
    ]


def _clock(day: date, hour: int, zone: ZoneInfo) -> datetime:
    days, hour = divmod(hour, 24)
    return datetime.combine(day + timedelta(days=days), time(hour), zone).astimezone(UTC)
