"""A window in terms: literal cases of rates, discounts, peak hours, months and clocks that change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasing.terms import Peak, Tariff, Term, peak_spans, term_amount, total_of, trimmed, whole_seconds

HOUR = timedelta(hours=1)
BERLIN = "Europe/Berlin"
OFFICE = Peak(frozenset({1, 2, 3, 4, 5}), 8, 20, BERLIN)
ALWAYS = frozenset(range(1, 8))


def at(text: str, zone: str = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def told(terms: list[Term], zone: str = BERLIN) -> list[tuple[str, str, str]]:
    def said(moment: datetime) -> str:
        return f"{moment.astimezone(ZoneInfo(zone)):%d %H:%M}"

    return [(said(one.starts_at), said(one.ends_at), str(one.rate_per_hour)) for one in terms]


def test_one_rate_inside_a_month_is_one_term() -> None:
    tariff = Tariff(Decimal("3.8000"), "EUR")
    terms = tariff.terms(at("2026-03-02T09:00"), at("2026-03-06T09:00"), ahead=HOUR, zone=BERLIN)
    assert told(terms) == [("02 09:00", "06 09:00", "3.8000")]


def test_terms_end_where_the_month_of_the_team_does() -> None:
    tariff = Tariff(Decimal("3.8000"), "EUR")
    window = at("2026-03-31T20:00"), at("2026-04-01T02:00")
    assert told(tariff.terms(*window, ahead=HOUR, zone=BERLIN)) == [
        ("31 20:00", "01 00:00", "3.8000"),
        ("01 00:00", "01 02:00", "3.8000"),
    ]
    assert len(tariff.terms(*window, ahead=HOUR, zone="Asia/Shanghai")) == 1


def test_peak_hours_have_their_own_rate() -> None:
    tariff = Tariff(Decimal(4), "EUR", off_peak_per_hour=Decimal(1), peak=OFFICE)
    terms = tariff.terms(at("2026-03-06T18:00"), at("2026-03-09T09:00"), ahead=HOUR, zone=BERLIN)
    assert told(terms) == [
        ("06 18:00", "06 20:00", "4.0000"),
        ("06 20:00", "09 08:00", "1.0000"),
        ("09 08:00", "09 09:00", "4.0000"),
    ]
    assert total_of(terms, "EUR") == 2 * 4 + 60 + 4


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-28", 12), ("2026-03-29", 11), ("2026-10-25", 13), ("2026-10-26", 12)]
)
def test_a_night_is_as_long_as_the_clock_makes_it(day: str, hours: int) -> None:
    """Peak from midnight to noon: an hour less when the clocks are put forward, one more when back."""
    peak = Peak(ALWAYS, 0, 12, BERLIN)
    begin = at(f"{day}T00:00")
    (first, is_peak), *_rest = peak_spans(peak, begin, begin + timedelta(days=1))
    assert (is_peak, (first.ends_at - first.starts_at) / HOUR) == (True, hours)


@pytest.mark.parametrize(
    ("day", "from_hour", "spans"),
    [
        # 02:00 does not come: peak begins when the clock skips it, at 01:00 UTC.
        ("2026-03-29", 2, ["01:00"]),
        # 02:00 comes twice: the first one counts.
        ("2026-10-25", 2, ["00:00"]),
    ],
)
def test_an_hour_that_is_skipped_or_comes_twice(day: str, from_hour: int, spans: list[str]) -> None:
    peak = Peak(ALWAYS, from_hour, 4, BERLIN)
    begin = at(f"{day}T00:00")
    found = [span for span, is_peak in peak_spans(peak, begin, begin + 12 * HOUR) if is_peak]
    assert [f"{span.starts_at:%H:%M}" for span in found] == spans


def test_percentages_apply_to_each_rate_one_after_the_other() -> None:
    tariff = Tariff(
        Decimal(4), "EUR", reserved_after=24 * HOUR, reserved_percent=Decimal(10),
        discount_percent=Decimal("12.5"),
    )  # fmt: skip
    window = at("2026-03-06T18:00"), at("2026-03-06T19:00")
    for ahead, rate in ((24 * HOUR, "3.1500"), (23 * HOUR, "3.5000")):
        (term,) = tariff.terms(*window, ahead=ahead, zone=BERLIN)
        assert str(term.rate_per_hour) == rate


moments = st.integers(min_value=0, max_value=86_400 * 40 * 1000).map(
    lambda after: datetime(2026, 3, 10, tzinfo=UTC) + timedelta(milliseconds=after)
)
zones = st.sampled_from([BERLIN, "Asia/Shanghai", "America/St_Johns", "Australia/Lord_Howe", "UTC"])
peaks = st.builds(
    Peak, st.frozensets(st.integers(1, 7), min_size=1), st.integers(0, 11), st.integers(12, 24), zones
)


@given(moments, moments, peaks, zones, moments)
def test_terms_adjoin_cover_the_window_and_add_up_however_it_is_cut(
    one: datetime, other: datetime, peak: Peak, zone: str, cut: datetime
) -> None:
    starts_at, ends_at = min(one, other), max(one, other) + timedelta(minutes=1)
    tariff = Tariff(Decimal("3.8123"), "EUR", off_peak_per_hour=Decimal("1.0007"), peak=peak)
    terms = tariff.terms(starts_at, ends_at, ahead=HOUR, zone=zone)
    assert (terms[0].starts_at, terms[-1].ends_at) == (starts_at, ends_at)
    for before, after in pairwise(terms):
        assert before.ends_at == after.starts_at
    for term in terms:
        edges = (term.starts_at, term.ends_at - timedelta(microseconds=1))
        assert len({f"{edge.astimezone(ZoneInfo(zone)):%Y-%m}" for edge in edges}) == 1
        local = term.starts_at.astimezone(ZoneInfo(peak.zone))
        if local.utcoffset() == (local - 6 * HOUR).utcoffset():  # around a change of the clock: see above
            busy = local.isoweekday() in peak.days and peak.from_hour <= local.hour < peak.until_hour
            assert term.rate_per_hour == (tariff.per_hour if busy else tariff.off_peak_per_hour)
    assert sum(whole_seconds(t[0], t[1]) for t in terms) == whole_seconds(starts_at, ends_at)
    assert sum(term_amount(term, "EUR") for term in terms) == total_of(terms, "EUR")
    kept = trimmed(terms, starts_at, cut) + trimmed(terms, cut, ends_at)
    assert sum(whole_seconds(t[0], t[1]) for t in kept) == whole_seconds(starts_at, ends_at)
