"""Usage over time as stacked bars, drawn by the server; the same figures stand beside it as a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from django.utils import formats
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from leasing.exports.lines import NO_MODEL
from leasing.exports.sums import Sum

HEIGHT = 200
# So many have a colour of their own; the rest share one.
MOST_SERIES = 7
# Up to so many days a bar is a day, then a month.
MOST_DAYS = 92
MOST_LABELS = 12


@dataclass(frozen=True)
class Span:
    """One bar's time: days from `first` through `last`."""

    first: date
    last: date
    label: str


@dataclass(frozen=True)
class Series:
    """One colour. `key` is empty for the rest."""

    number: int
    key: str
    name: str
    total: Decimal

    @property
    def leads(self) -> bool:
        """Whether it can be looked at by itself."""
        return self.key not in ("", NO_MODEL)


@dataclass(frozen=True)
class Part:
    """One piece of a bar, from the top in pixels."""

    series: Series
    value: Decimal
    y: str
    height: str


@dataclass(frozen=True)
class Bar:
    """Horizontally in per cent of the chart."""

    span: Span
    x: str
    width: str
    middle: str
    labelled: bool
    total: Decimal
    parts: list[Part]

    @property
    def cells(self) -> list[Decimal]:
        return [part.value for part in self.parts]


@dataclass(frozen=True)
class Chart:
    """All bars in one unit: a currency, or empty for GPU-hours."""

    currency: str
    total: Decimal
    top: Decimal
    series: list[Series]
    bars: list[Bar]


def spans_of(first: date, last: date) -> list[Span]:
    """Days, or months if they are many."""
    if (last - first).days < MOST_DAYS:
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        pattern = pgettext("day and month, short", "j M")
        return [Span(day, day, formats.date_format(day, pattern)) for day in days]
    found, at = [], first
    while at <= last:
        end = min(last, (at.replace(day=1) + timedelta(days=32)).replace(day=1) - timedelta(days=1))
        found.append(Span(at, end, formats.date_format(at, pgettext("month and year, short", "M Y"))))
        at = end + timedelta(days=1)
    return found


def charts_of(spans: Sequence[Span], sums: Sequence[Sum], *, show: str) -> list[Chart]:
    """One for each currency; one for GPU-hours."""
    if show == "hours":
        return [_chart("", spans, [(one, Decimal(one.gpu_seconds) / 3600) for one in sums])]
    currencies = sorted({one.currency for one in sums})
    return [
        _chart(currency, spans, [(one, one.amount) for one in sums if one.currency == currency])
        for currency in currencies
    ]


def _chart(currency: str, spans: Sequence[Span], values: Sequence[tuple[Sum, Decimal]]) -> Chart:
    totals: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for one, value in values:
        totals[one.key, _called(one)] += value
    ranked = sorted(totals, key=lambda key: (-totals[key], key))
    series = [
        Series(number, key, name, totals[key, name])
        for number, (key, name) in enumerate(ranked[:MOST_SERIES])
    ]
    place = {one.key: one for one in series}
    if rest := ranked[MOST_SERIES:]:
        others = Series(MOST_SERIES, "", _("all others"), sum((totals[key] for key in rest), Decimal(0)))
        series.append(others)
        place |= {key: others for key, _name in rest}
    cells: dict[tuple[int, int], Decimal] = defaultdict(Decimal)
    for one, value in values:
        cells[one.span, place[one.key].number] += value
    heights = [sum((cells[n, one.number] for one in series), Decimal(0)) for n in range(len(spans))]
    top = _round_up(max(heights, default=Decimal(0)))
    bars = [
        _bar(spans, n, [(one, cells[n, one.number]) for one in series], heights[n], top)
        for n in range(len(spans))
    ]
    return Chart(currency, sum(heights, Decimal(0)), top, series, bars)


def _bar(
    spans: Sequence[Span], number: int, values: Sequence[tuple[Series, Decimal]], total: Decimal, top: Decimal
) -> Bar:
    step = 100 / len(spans)
    every = -(-len(spans) // MOST_LABELS)
    parts, at = [], Decimal(HEIGHT)
    for series, value in values:
        height = value / top * HEIGHT
        at -= height
        parts.append(Part(series, value, f"{at:.2f}", f"{height:.2f}"))
    return Bar(
        span=spans[number],
        x=f"{number * step + step * 0.1:.3f}%",
        width=f"{step * 0.8:.3f}%",
        middle=f"{(number + 0.5) * step:.3f}%",
        labelled=number % every == 0,
        total=total,
        parts=parts,
    )


def _round_up(value: Decimal) -> Decimal:
    """To one, two or five times a power of ten: the top of the axis."""
    if value <= 0:
        return Decimal(1)
    unit = Decimal(10) ** value.adjusted()
    return next(step * unit for step in (1, 2, 5, 10) if step * unit >= value)


def _called(one: Sum) -> str:
    """What is kept has no model, whose name would be the same in every language."""
    return _("Storage") if one.key == NO_MODEL else one.name
