"""What counts against a limit: peaks, months of a zone, money and hours, one's own and everybody's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasing.limits import Limit, MonthUse, Use, measured, month_spans, objections, peak_gpus
from leasing.reasons import Reason, stored, together
from leasing.reasons import parse as parse_reason
from leasing.terms import Term

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
WANTED = Use(START, START + 2 * HOUR, 2, 1, True, (Term(START, START + 2 * HOUR, Decimal("3.8")),), "EUR")


def lasting(starts_at: datetime, ends_at: datetime) -> Use:
    """The same in another window."""
    terms = (Term(starts_at, ends_at, Decimal("3.8")),)
    return replace(WANTED, starts_at=starts_at, ends_at=ends_at, terms=terms)


uses = st.lists(
    st.builds(
        lambda start, length, gpus: replace(
            WANTED, starts_at=START + start * HOUR, ends_at=START + (start + length) * HOUR, gpus=gpus
        ),
        st.integers(-5, 10), st.integers(1, 6), st.integers(1, 4),
    ),
    max_size=6,
)  # fmt: skip


def broken(limit: Limit, *, wanted: Use = WANTED, there: list[Use] | None = None) -> list[str]:
    found = measured([limit], wanted=wanted, uses=there or [], months=[], zone="UTC", now=START)
    return [reason.code for reason in objections(found)]


@given(uses)
def test_the_peak_is_the_most_at_any_hour_of_the_window(there: list[Use]) -> None:
    hours = [START + n * HOUR for n in range(2)]
    most = max(sum(use.gpus for use in there if use.starts_at <= at < use.ends_at) for at in hours)
    assert peak_gpus(there, within=WANTED) == most + WANTED.gpus


@given(
    st.datetimes(START.replace(tzinfo=None), START.replace(tzinfo=None, year=2027)),
    st.integers(1, 200 * 24 * 3600),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Shanghai"]),
)
def test_months_cover_every_second_once(start: datetime, seconds: int, zone: str) -> None:
    """Also the one that is an hour shorter or longer than its days."""
    starts_at = start.replace(tzinfo=UTC)
    ends_at = starts_at + timedelta(seconds=seconds)
    spans = list(month_spans(starts_at, ends_at, zone))
    assert spans[0][1] <= starts_at < spans[0][2]
    assert spans[-1][1] < ends_at <= spans[-1][2]
    assert all(one[2] == two[1] for one, two in pairwise(spans))
    for name, begin, _end in spans:
        assert begin.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M") == f"{name}-01 00:00"


def test_march_in_berlin_is_an_hour_short() -> None:
    ((_, begin, end),) = month_spans(START, START + HOUR, "Europe/Berlin")
    assert end - begin == timedelta(days=31, hours=-1)


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        (Limit("gpus", Decimal(1)), "over-limit"),
        (Limit("gpus", Decimal(1), own=True), "own-over-limit"),
        (Limit("gpus", Decimal(1), model_id=1, model_name="H100"), "over-limit"),
        (Limit("longest", Decimal(1)), "too-long"),
        (Limit("gpu-hours", Decimal("3.99")), "over-gpu-hours"),
        (Limit("budget", Decimal("7.59"), currency="EUR"), "over-budget"),
        (Limit("budget", Decimal(100), currency="USD"), "other-currency"),
    ],
)
def test_what_is_outside_a_limit_says_so(limit: Limit, code: str) -> None:
    assert broken(limit) == [code]


@pytest.mark.parametrize(
    "limit",
    [
        Limit("gpus", Decimal(2)),
        Limit("gpus", Decimal(0), model_id=2),
        Limit("longest", Decimal(2)),
        Limit("ahead", Decimal(0)),
        Limit("gpu-hours", Decimal(4)),
        Limit("budget", Decimal("7.60"), currency="EUR"),
    ],
)
def test_what_is_just_inside_is_inside(limit: Limit) -> None:
    assert broken(limit) == []


def test_ones_own_limit_counts_ones_own_alone() -> None:
    theirs = replace(WANTED, own=False)
    assert broken(Limit("gpus", Decimal(2), own=True), there=[theirs]) == []
    assert broken(Limit("gpus", Decimal(2)), there=[theirs]) == ["over-limit"]


def test_a_lease_over_the_turn_of_a_month_counts_in_each() -> None:
    midnight = datetime(2026, 4, 1, tzinfo=UTC)
    wanted = lasting(midnight - HOUR, midnight + 3 * HOUR)
    april = MonthUse("2026-04", Decimal(3600), 2, 1, True, Decimal("3.8"), "EUR")
    for hours, codes in ((8, []), (7, ["over-gpu-hours"])):
        limit = Limit("gpu-hours", Decimal(hours))
        found = measured([limit], wanted=wanted, uses=[], months=[april], zone="UTC", now=START)
        assert [(one.month, one.there, one.asked) for one in found] == [
            ("2026-03", Decimal(0), Decimal(2)),
            ("2026-04", Decimal(2), Decimal(6)),
        ]
        assert [reason.code for reason in objections(found)] == codes


def test_several_reasons_are_said_and_kept_together() -> None:
    measures = measured(
        [Limit("longest", Decimal(1)), Limit("gpus", Decimal(1))],
        wanted=WANTED, uses=[], months=[], zone="UTC", now=START,
    )  # fmt: skip
    found = objections(measures)
    both = together(found)
    assert [str(reason) in str(both) for reason in found] == [True, True]
    assert parse_reason(stored(both)) == both
    assert together([]) == Reason()


def test_thirds_of_an_hour_add_up_to_hours() -> None:
    """Three leases of a hundred minutes are five hours, and not a hair more."""
    wanted = replace(lasting(START, START + timedelta(minutes=100)), gpus=1)
    there = [MonthUse("2026-03", Decimal(6000), 1, 1, True, Decimal("3.8"), "EUR")] * 2
    limit = Limit("gpu-hours", Decimal(5))
    (measure,) = measured([limit], wanted=wanted, uses=[], months=there, zone="UTC", now=START)
    assert (measure.total, measure.is_over) == (Decimal(5), False)


def test_a_month_that_is_over_is_said_once() -> None:
    """Of several months the first one speaks for all."""
    wanted = lasting(START, START + timedelta(days=100))
    limit = Limit("gpu-hours", Decimal(1))
    found = objections(measured([limit], wanted=wanted, uses=[], months=[], zone="UTC", now=START))
    assert [dict(reason.facts)["month"] for reason in found] == ["2026-03"]
