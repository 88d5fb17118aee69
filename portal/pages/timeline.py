"""The timeline of the book page: a week, a row for each day, with what of it could be leased."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.views.decorators.http import require_safe

from leasing.errors import InvalidRequest
from leasing.extras import PLAIN, Extras
from leasing.models import Flavor
from leasing.openings.spans import Span, moment
from leasing.slots import bookable
from leasing.timing import FARTHEST_START
from portal.middleware import PersonRequest
from portal.pages.booking_form import UNTIL, BookingForm, choices_for
from portal.pages.calendar_chart import WEEKDAYS, Across, lay_across
from portal.pages.calendar_windows import DAY, MINUTE, midnight, next_whole_minute, sayable, whole_minute

DAYS = 7
MARKED_HOURS = (0, 6, 12, 18)
# Of what is free for longer a link takes so much, if the form says no length.
LONGEST_TAKEN = timedelta(days=1)


@dataclass(frozen=True)
class Stretch:
    """A part of a day; `address` is the book page with its start, for those who have no script."""

    starts_at: datetime
    ends_at: datetime
    at: Across
    address: str = ""

    @property
    def milliseconds(self) -> int:
        return _milliseconds(self.starts_at)


@dataclass(frozen=True)
class Day:
    name: str
    starts_at: datetime
    ends_at: datetime
    marks: list[tuple[Across, int]]
    past: Across
    free: list[Stretch]
    chosen: Stretch | None

    @property
    def milliseconds(self) -> tuple[int, int]:
        """Since 1970, as scripts count."""
        return _milliseconds(self.starts_at), _milliseconds(self.ends_at)


@dataclass(frozen=True)
class Week:
    """A week to turn to, and the book page with it."""

    first: date
    address: str


@dataclass(frozen=True)
class Timeline:
    """`windows` are milliseconds since 1970: a lease can be had if it lies within one of them."""

    flavor: Flavor
    first: date
    days: list[Day]
    windows: str
    chosen: str
    earlier: Week | None
    later: Week


@login_required
@require_safe
def book_timeline(request: PersonRequest) -> HttpResponse:
    """The timeline for the choice so far, as a fragment."""
    form = BookingForm(request.user, choices_for(request), request.GET)
    timeline = timeline_of(form, request.GET.get("days", ""), timezone.now())
    return render(request, "book/_timeline.html", {"timeline": timeline, "zone": request.user.timezone})


def timeline_of(form: BookingForm, first: str, now: datetime) -> Timeline | None:
    """The week from a date (in ISO 8601) on, or from today; None as long as no flavor is chosen."""
    form.is_valid()
    flavor = form.cleaned_data.get("flavor")
    if flavor is None:
        return None
    zone = ZoneInfo(form.person.timezone)
    today = now.astimezone(zone).date()
    day = min(max(_date(first) or today, today), today + FARTHEST_START - DAYS * DAY)
    edges = [midnight(day + number * DAY, zone) for number in range(DAYS + 1)]
    spans = bookable(flavor, edges[0], edges[-1], extras=_extras(form), now=now)
    chosen = _chosen(form, now)
    windows = [[_milliseconds(moment(edge)) for edge in span] for span in spans]
    drawing = _Drawing(form, list(_joined(spans)), chosen, zone, now)
    days = [drawing.day(*pair) for pair in pairwise(edges) if pair[0] < pair[1]]
    return Timeline(
        flavor,
        day,
        days,
        json.dumps(windows),
        json.dumps([_milliseconds(at) for at in chosen or ()]),
        earlier=_week(form, day - DAYS * DAY) if day > today else None,
        later=_week(form, day + DAYS * DAY),
    )


def _extras(form: BookingForm) -> Extras:
    """Those that are chosen; what is wrong with them is said beside the price."""
    with suppress(InvalidRequest):
        return form.extras()
    return PLAIN


def _week(form: BookingForm, first: date) -> Week:
    return Week(first, form.address(days=first.isoformat()))


@dataclass(frozen=True)
class _Drawing:
    form: BookingForm
    free: list[tuple[datetime, datetime]]
    chosen: tuple[datetime, datetime] | None
    zone: ZoneInfo
    now: datetime

    def day(self, starts_at: datetime, ends_at: datetime) -> Day:
        whole = (starts_at, ends_at)
        local = starts_at.astimezone(self.zone).date()
        marked = [datetime.combine(local, time(hour), self.zone) for hour in MARKED_HOURS]
        chosen = list(_within(whole, [self.chosen] if self.chosen else []))
        return Day(
            f"{WEEKDAYS[local.weekday()]} {local.day}",
            starts_at,
            ends_at,
            [(lay_across(whole, max(at, starts_at), ends_at), at.hour) for at in marked],
            lay_across(whole, starts_at, min(max(self.now, starts_at), ends_at)),
            [
                Stretch(begins, ends, lay_across(whole, begins, ends), self._address(begins, ends))
                for begins, ends in _within(whole, self.free)
            ],
            next((Stretch(*part, lay_across(whole, *part)) for part in chosen), None),
        )

    def _address(self, starts_at: datetime, ends_at: datetime) -> str:
        begins = sayable(next_whole_minute(starts_at), self.zone, MINUTE)
        changes = {"when": "at", "starts_at": self.form.local(begins)}
        if self.form.data.get("length") == UNTIL:
            ends = sayable(whole_minute(min(ends_at, begins + LONGEST_TAKEN)), self.zone, -MINUTE)
            changes["ends_at"] = self.form.local(ends)
        return self.form.address(**changes)


def _chosen(form: BookingForm, now: datetime) -> tuple[datetime, datetime] | None:
    """The window that the form says, as far as it says one."""
    if form.is_soon or form.errors.keys() & {"when", "starts_at", "length", "ends_at"}:
        return None
    starts_at, ends_at = form.starts() or now, form.ends(now)
    return (starts_at, ends_at) if starts_at < ends_at else None


def _joined(spans: Iterable[Span]) -> Iterator[tuple[datetime, datetime]]:
    """What is free at all: windows that overlap become one."""
    since = reached = -1
    for span in spans:
        if span.starts > reached:
            if reached > since:
                yield moment(since), moment(reached)
            since = span.starts
        reached = max(reached, span.ends)
    if reached > since:
        yield moment(since), moment(reached)


def _within(
    whole: tuple[datetime, datetime], parts: Iterable[tuple[datetime, datetime]]
) -> Iterator[tuple[datetime, datetime]]:
    for starts_at, ends_at in parts:
        if starts_at < whole[1] and ends_at > whole[0]:
            yield max(starts_at, whole[0]), min(ends_at, whole[1])


def _date(text: str) -> date | None:
    try:
        return parse_date(text)
    except ValueError:
        return None


def _milliseconds(at: datetime) -> int:
    return round(1000 * at.timestamp())
