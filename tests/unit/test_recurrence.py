"""Repeated windows keep their local times, over all zones and their changes of the clock."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st

from leasing.errors import InvalidRequest
from leasing.recurrence import (
    MOST_OCCURRENCES,
    Occurrence,
    Pattern,
    check_between,
    check_pattern,
    days_of,
    described,
    moment_of,
    occurrences,
)
from leasing.timing import FARTHEST_START

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TODAY = date(2026, 3, 2)
BERLIN = "Europe/Berlin"
WORKDAYS = frozenset({1, 2, 3, 4, 5})
DAY = timedelta(days=1)

zones = st.sampled_from(sorted(zoneinfo.available_timezones() - {"localtime"}))
days = st.dates(date(1990, 1, 1), date(2060, 1, 1))
times = st.times().map(lambda at: at.replace(second=0, microsecond=0))


@st.composite
def near_changes(draw: st.DrawFn) -> tuple[str, date]:
    """A zone and, mostly, a date around which its clock changes."""
    zone, day = draw(zones), draw(days)
    if draw(st.integers(0, 4)):
        noons = [datetime.combine(day + n * DAY, time(12), ZoneInfo(zone)) for n in range(400)]
        changing = (a.date() for a, b in pairwise(noons) if a.utcoffset() != b.utcoffset())
        day = next(changing, day) + draw(st.integers(-1, 2)) * DAY
    return zone, day


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    zone, first_on = draw(near_changes())
    return Pattern(
        weekdays=draw(st.frozensets(st.integers(1, 7), min_size=1)),
        starts=draw(times),
        ends=draw(times),
        zone=zone,
        first_on=first_on,
        last_on=first_on + draw(st.integers(0, 400)) * DAY,
        every_weeks=draw(st.integers(1, 4)),
    )


def workdays(**changes: object) -> Pattern:
    facts = {
        "weekdays": WORKDAYS,
        "starts": time(9),
        "ends": time(17),
        "zone": BERLIN,
        "first_on": TODAY,
        "last_on": date(2026, 4, 10),
    }
    return Pattern(**(facts | changes))  # type: ignore[arg-type]


@given(near_changes(), times)
def test_a_local_time_is_the_first_moment_that_has_it_or_passes_it(near: tuple[str, date], at: time) -> None:
    zone, day = near
    local = datetime.combine(day, at)
    found = moment_of(day, at, ZoneInfo(zone))
    shown = found.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    before = (found - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    assert shown >= local
    assert before < local
    if shown != local:
        assert shown - before > timedelta(seconds=1), "the clock jumps at this very moment"


def test_times_of_europe_around_its_changes() -> None:
    berlin = ZoneInfo(BERLIN)
    spring, autumn = date(2026, 3, 29), date(2026, 10, 25)
    assert moment_of(spring, time(2, 30), berlin) == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert moment_of(spring, time(3, 0), berlin) == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert moment_of(autumn, time(2, 30), berlin) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert moment_of(autumn, time(3, 0), berlin) == datetime(2026, 10, 25, 2, 0, tzinfo=UTC)


def test_nine_stays_nine_over_the_change_of_the_clock() -> None:
    found = list(occurrences(workdays(first_on=date(2026, 3, 27), last_on=date(2026, 3, 30))))
    assert [one.starts_at.hour for one in found] == [8, 7]
    assert {one.starts_at.astimezone(ZoneInfo(BERLIN)).time() for one in found} == {time(9)}


def test_a_night_that_loses_an_hour_is_an_hour_shorter_and_a_lost_window_is_told() -> None:
    saturday = {"weekdays": frozenset({6, 7}), "first_on": date(2026, 3, 28), "last_on": date(2026, 3, 29)}
    night, _next = occurrences(workdays(starts=time(22), ends=time(6), **saturday))
    assert night.ends_at - night.starts_at == timedelta(hours=7)
    _yes, no = occurrences(workdays(starts=time(2, 10), ends=time(2, 50), **saturday))
    assert (no.day, no.has_time) == (date(2026, 3, 29), False)


@given(patterns())
def test_windows_follow_each_other_and_keep_their_local_times(pattern: Pattern) -> None:
    found = list(occurrences(pattern))
    zone = ZoneInfo(pattern.zone)
    length = datetime.combine(TODAY, pattern.ends) - datetime.combine(TODAY, pattern.starts)
    length += DAY if length <= timedelta(0) else timedelta(0)
    for one in found:
        assert one.starts_at <= one.ends_at
        begins, ends = one.starts_at.astimezone(zone), one.ends_at.astimezone(zone)
        exists = begins.time() == pattern.starts and ends.time() == pattern.ends
        if exists and begins.utcoffset() == ends.utcoffset() and begins.date() == one.day:
            assert one.ends_at - one.starts_at == length
    assert all(earlier.ends_at <= later.starts_at for earlier, later in pairwise(found))


@given(patterns())
def test_days_are_all_that_the_pattern_says_and_no_others(pattern: Pattern) -> None:
    """Day by day, from the ISO calendar."""
    first_monday = pattern.first_on - pattern.first_on.weekday() * DAY
    due = []
    day = pattern.first_on
    while day <= pattern.last_on:
        monday = day - day.weekday() * DAY
        if (monday - first_monday) // (7 * DAY) % pattern.every_weeks == 0:
            due += [day] if day.weekday() + 1 in pattern.weekdays else []
        day += DAY
    assert list(days_of(pattern)) == due


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "no day": ({"weekdays": frozenset()}, "weekdays"),
    "an eighth day": ({"weekdays": frozenset({8})}, "weekdays"),
    "every zeroth week": ({"every_weeks": 0}, "every_weeks"),
    "once a year": ({"every_weeks": 53}, "every_weeks"),
    "yesterday": ({"first_on": TODAY - DAY}, "first_on"),
    "backwards": ({"last_on": TODAY - DAY}, "last_on"),
    "none of the days": ({"weekdays": frozenset({7}), "last_on": TODAY}, "last_on"),
    "too far": ({"last_on": (NOW + FARTHEST_START).date(), "every_weeks": 4}, "last_on"),
    "the end of time": ({"first_on": date(9999, 12, 1), "last_on": date(9999, 12, 31)}, "last_on"),
    "too many": ({"last_on": date(2027, 12, 31)}, "last_on"),
    "no zone": ({"zone": "Mars/Olympus"}, "zone"),
    "a folder": ({"zone": "Europe"}, "zone"),
    "a path": ({"zone": "../../etc/passwd"}, "zone"),
    "nothing": ({"zone": ""}, "zone"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_asked_for_names_its_field(case: str) -> None:
    changes, field = WRONG[case]
    with pytest.raises(InvalidRequest) as refused:
        check_pattern(workdays(**changes), now=NOW)
    assert refused.value.field == field


def test_as_many_as_there_may_be() -> None:
    found = check_pattern(workdays(last_on=TODAY + (MOST_OCCURRENCES // 5 * 7 - 3) * DAY), now=NOW)
    assert len(found) == MOST_OCCURRENCES
    assert found[-1].starts_at < NOW + FARTHEST_START


def test_there_is_time_between_two_of_them() -> None:
    daily = workdays(ends=time(8, 55))
    found = list(occurrences(daily))
    check_between(found, timedelta(minutes=5))
    with pytest.raises(InvalidRequest) as refused:
        check_between(found, timedelta(minutes=6))
    assert refused.value.field == "ends"
    assert "6 minutes" in str(refused.value.message)
    check_between([Occurrence(TODAY, NOW, NOW + DAY)], timedelta(days=9))


def test_a_pattern_is_said_in_the_readers_language() -> None:
    assert described(workdays()) == (
        "Mon, Tue, Wed, Thu, Fri 09:00–17:00 (Europe/Berlin), 2 Mar 2026 – 10 Apr 2026"
    )
    assert "every 2 weeks" in str(workdays(every_weeks=2))
    with translation.override("zh-hans"):
        assert "2026年3月2日" in described(workdays())
