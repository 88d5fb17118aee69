"""The calendar's windows are whole days of the reader's zone, whatever its clocks do."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from portal.pages.calendar_windows import (
    DAY,
    HOUR,
    View,
    days_of,
    edges_of,
    first_day,
    midnight,
    next_day,
    previous_day,
    sayable,
)

MINUTE = timedelta(minutes=1)
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from(sorted(zoneinfo.available_timezones())).map(ZoneInfo)
DAYS = st.dates(date(2000, 1, 1), date(2099, 12, 31))


@given(st.sampled_from(View), DAYS, ZONES)
@example(View.DAY, date(2011, 12, 30), ZoneInfo("Pacific/Apia"))
@example(View.WEEK, date(2024, 3, 31), ZoneInfo("Asia/Beirut"))
@example(View.DAY, date(2026, 4, 5), ZoneInfo("Australia/Lord_Howe"))
def test_a_window_begins_and_ends_at_midnight_and_its_days_are_all_there(
    view: View, day: date, zone: ZoneInfo
) -> None:
    first, last = first_day(view, day), next_day(view, first_day(view, day)) - DAY
    assert first <= day <= last
    edges = edges_of(view, first, zone)
    assert (edges[0], edges[-1]) == (midnight(first, zone), midnight(last + DAY, zone))
    assert all(one < other for one, other in pairwise(edges))
    assert not any(edge.second or edge.microsecond for edge in edges)
    shown = [at.astimezone(zone).date() for at in days_of(edges, zone)]
    there = [first + n * DAY for n in range((last - first).days + 1)]
    assert shown == [one for one in there if midnight(one, zone) < midnight(one + DAY, zone)]


@given(st.sampled_from(View), DAYS)
def test_windows_lie_side_by_side(view: View, day: date) -> None:
    first = first_day(view, day)
    assert previous_day(view, next_day(view, first)) == first
    assert first_day(view, first) == first


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_has_as_many_hours_as_it_has(day: str, hours: int) -> None:
    edges = edges_of(View.DAY, date.fromisoformat(day), BERLIN)
    assert len(edges) - 1 == hours
    assert {after - before for before, after in pairwise(edges)} == {HOUR}


def test_the_steps_of_a_week_begin_at_the_same_hours_of_the_clock() -> None:
    edges = edges_of(View.WEEK, date(2026, 3, 23), BERLIN)
    assert {edge.astimezone(BERLIN).hour for edge in edges} == {0, 6, 12, 18}
    assert edges[25] - edges[24] == 5 * HOUR


@given(st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)), ZONES)  # noqa: DTZ001
@example(datetime(2026, 10, 25, 0, 30, tzinfo=UTC), BERLIN)
def test_what_can_be_said_means_one_moment(at: datetime, zone: ZoneInfo) -> None:
    at = at.replace(second=0, microsecond=0)
    later = sayable(at, zone, MINUTE)
    assume(later < at + DAY)
    assert at <= later
    assert (
        later.astimezone(zone).replace(tzinfo=zone, fold=0) == later == later.astimezone(zone).replace(fold=1)
    )
