"""The windows of the calendar in the reader's zone. Pure; a day has as many hours as it has there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from itertools import pairwise
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2099, 12, 31)


class View(StrEnum):
    DAY = "day"
    WEEK = "week"
    TWO_WEEKS = "two-weeks"
    MONTH = "month"


# At which hours of each day a step begins; a day is shown by each of its hours, however many it has.
_HOURS = {View.WEEK: (0, 6, 12, 18), View.TWO_WEEKS: (0, 12), View.MONTH: (0,)}


def first_day(view: View, day: date) -> date:
    """The first day of the window that shows this one: weeks begin on Monday."""
    match view:
        case View.DAY:
            return day
        case View.MONTH:
            return day.replace(day=1)
        case _:
            return day - timedelta(days=day.weekday())


def next_day(view: View, first: date) -> date:
    """The first day after the window that begins on `first`."""
    match view:
        case View.DAY:
            return first + DAY
        case View.WEEK:
            return first + 7 * DAY
        case View.TWO_WEEKS:
            return first + 14 * DAY
        case View.MONTH:
            return (first + 31 * DAY).replace(day=1)


def previous_day(view: View, first: date) -> date:
    """The first day of the window before the one that begins on `first`."""
    return first - 14 * DAY if view is View.TWO_WEEKS else first_day(view, first - DAY)


def edges_of(view: View, first: date, zone: ZoneInfo) -> list[datetime]:
    """Where the steps of the window begin, and its end; instants that increase strictly."""
    end = midnight(next_day(view, first), zone)
    return sorted({*_begins(view, first, end, zone), end})


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """When the day begins: where its midnight is skipped, at the moment of the change."""
    return _instant(day, 0, zone)


def days_of(edges: list[datetime], zone: ZoneInfo) -> list[datetime]:
    """The edges at which another day begins, without the end."""
    local = [edge.astimezone(zone) for edge in edges]
    begins = [edges[0]] + [
        edge for (before, after), edge in zip(pairwise(local), edges[1:], strict=True)
        if before.date() != after.date()
    ]  # fmt: skip
    return [edge for edge in begins if edge < edges[-1]]


def sayable(at: datetime, zone: ZoneInfo, step: timedelta) -> datetime:
    """The moment, or the next one in steps, whose local time is not said twice that day."""
    while _is_ambiguous(at.astimezone(zone)):
        at += step
    return at


def whole_minute(at: datetime) -> datetime:
    """Forms can say whole minutes only."""
    return at.replace(second=0, microsecond=0)


def next_whole_minute(at: datetime) -> datetime:
    """The moment itself, if it is one."""
    return whole_minute(at + MINUTE - timedelta.resolution)


def _begins(view: View, first: date, end: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    if view is View.DAY:
        at = midnight(first, zone)
        while at < end:
            yield at
            at += HOUR
        return
    day = first
    while day < next_day(view, first):
        yield from (_instant(day, hour, zone) for hour in _HOURS[view])
        day += DAY


def _instant(day: date, hour: int, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(hour), zone).astimezone(UTC)


def _is_ambiguous(local: datetime) -> bool:
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
