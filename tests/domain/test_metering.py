"""What a lease is billed for: literal cases, then any history at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from leasing.booking import fill_quote
from leasing.metering import append_terms, billable_span, follow_lease, lease_amount, overrun_span
from leasing.models import Discount, Extension, Lease, Rate, Tenant, UsageSegment
from leasing.pricing import keep_terms, quote_extension
from leasing.states.lease import LeaseEvent
from leasing.terms import line_amount, whole_seconds
from tests.domain.ground import NOW, Ground

E = LeaseEvent
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("seconds", "rate", "currency", "amount"),
    [
        (3600, "3.80", "EUR", "3.80"),
        (3630, "3.80", "EUR", "3.83"),
        (1, "3.80", "EUR", "0.00"),
        (0, "3.80", "EUR", "0.00"),
        (1800, "0.01", "EUR", "0.00"),  # half a cent goes to the even neighbour
        (1800, "0.03", "EUR", "0.02"),
        (1800, "0.05", "EUR", "0.02"),
        (1800, "0.0301", "EUR", "0.02"),
        (3600, "412.5", "JPY", "412"),
        (3600, "413.5", "JPY", "414"),
        (31_536_000, "99999999.9999", "EUR", "875999999999.12"),
    ],
)
def test_a_line_is_rounded_once_half_to_even(seconds: int, rate: str, currency: str, amount: str) -> None:
    found = line_amount(seconds=seconds, rate_per_hour=Decimal(rate), currency=currency)
    assert str(found) == amount


def test_adjoining_spans_have_as_many_seconds_as_the_whole() -> None:
    start, middle, end = (NOW + timedelta(seconds=seconds) for seconds in (0.9, 7.3, 12.1))
    assert whole_seconds(start, middle) + whole_seconds(middle, end) == whole_seconds(start, end) == 12
    assert whole_seconds(end, start) == 0


@pytest.mark.parametrize(
    ("active", "stopped", "span"),
    [
        (-5, 240, (0, 240)),  # ready early: billed from the start
        (5, 240, (5, 240)),  # ready late: billed from then
        (5, 90, (5, 90)),  # given back early
        (5, 300, (5, 240)),  # noticed late: billed to the end
        (-5, -1, None),
        (-5, 0, None),
        (5, 5, None),
        (240, 250, None),
    ],
)
def test_billed_is_what_was_usable_inside_the_window(
    active: int, stopped: int, span: tuple[int, int] | None
) -> None:
    found = billable_span(
        active_at=NOW + active * MINUTE,
        stopped_at=NOW + stopped * MINUTE,
        starts_at=NOW,
        ends_at=NOW + 240 * MINUTE,
    )
    assert found == (span and (NOW + span[0] * MINUTE, NOW + span[1] * MINUTE))


@pytest.mark.parametrize(
    ("active", "gone", "span"), [(0, 230, None), (0, 240, None), (0, 250, (240, 250)), (245, 250, (245, 250))]
)
def test_overrun_is_what_lies_beyond_the_end(active: int, gone: int, span: tuple[int, int] | None) -> None:
    found = overrun_span(
        active_at=NOW + active * MINUTE, gone_at=NOW + gone * MINUTE, ends_at=NOW + 240 * MINUTE
    )
    assert found == (span and (NOW + span[0] * MINUTE, NOW + span[1] * MINUTE))


def live(lease: Lease, *story: tuple[LeaseEvent, datetime]) -> list[UsageSegment]:
    """Let a lease live through events, as the transitions would tell them."""
    for event, at in story:
        if event is E.RUNNING:
            lease.active_at = at
        if event in (E.END, E.FAIL, E.CANCEL):
            lease.stopped_at = at
        follow_lease(lease, event=event, effective_at=at)
    return list(lease.segments.all())


def minutes(segment: UsageSegment) -> tuple[float, float | None, str]:
    end = (segment.ends_at - NOW) / MINUTE if segment.ends_at else None
    return (segment.starts_at - NOW) / MINUTE, end, segment.cause


def test_a_running_lease_has_an_open_segment_that_counts_up_to_now(ground: Ground) -> None:
    lease = ground.lease()
    segments = live(lease, (E.RUNNING, NOW + MINUTE))
    assert [minutes(segment) for segment in segments] == [(1, None, "use")]
    assert lease_amount(segments, NOW) == 0
    assert lease_amount(segments, NOW + 61 * MINUTE) == Decimal("3.80")
    assert lease_amount(segments, lease.ends_at + 99 * MINUTE) == Decimal("15.14")


def test_a_lease_that_was_ready_early_costs_nothing_until_it_starts(ground: Ground) -> None:
    segments = live(ground.lease(), (E.RUNNING, NOW - 2 * MINUTE))
    assert [minutes(segment) for segment in segments] == [(0, None, "use")]
    assert lease_amount(segments, NOW - MINUTE) == 0


@pytest.mark.parametrize("event", [E.END, E.FAIL])
def test_a_lease_that_stopped_before_it_started_is_billed_nothing(ground: Ground, event: LeaseEvent) -> None:
    assert live(ground.lease(), (E.RUNNING, NOW - 2 * MINUTE), (event, NOW - MINUTE)) == []


def test_a_lease_that_was_never_usable_is_billed_nothing(ground: Ground) -> None:
    late = NOW + timedelta(days=1)
    assert live(ground.lease(), (E.CANCEL, NOW), (E.GONE, late)) == []
    assert live(ground.lease(), (E.FAIL, NOW), (E.GONE, late)) == []


def test_our_failure_is_billed_until_it_happened(ground: Ground) -> None:
    segments = live(
        ground.lease(), (E.RUNNING, NOW), (E.FAIL, NOW + 30 * MINUTE), (E.GONE, NOW + 31 * MINUTE)
    )
    assert [minutes(segment) for segment in segments] == [(0, 30, "use")]
    assert lease_amount(segments, NOW + 999 * MINUTE) == Decimal("1.90")


def test_a_machine_that_outlives_its_lease_is_free_and_shown(ground: Ground) -> None:
    end = ground.lease().ends_at
    segments = live(ground.lease(), (E.RUNNING, NOW), (E.END, end), (E.GONE, end + 10 * MINUTE))
    assert [minutes(segment) for segment in segments] == [(0, 240, "use"), (240, 250, "overrun")]
    assert [segment.rate_per_hour for segment in segments] == [Decimal("3.8000"), 0]
    assert lease_amount(segments, end) == Decimal("15.20")


def test_the_rate_is_the_one_frozen_at_booking(ground: Ground) -> None:
    lease = ground.lease(rate_per_hour=Decimal("7.1234"), currency="CHF")
    (segment,) = live(lease, (E.RUNNING, NOW))
    assert (segment.rate_per_hour, segment.currency) == (Decimal("7.1234"), "CHF")


offsets = st.integers(min_value=-7200_000, max_value=30_000_000)
gaps = st.one_of(st.just(0), st.integers(min_value=0, max_value=20_000_000))


class TestAnyHistory(TestCase):
    """Whatever happens when, each billable moment is in exactly one segment, and no other moment is."""

    @settings(max_examples=120, deadline=None)
    @given(active=offsets, used=gaps, lingered=gaps, hours=st.integers(1, 6), failed=st.booleans())
    def test_segments_cover_exactly_the_billable_time(
        self, active: int, used: int, lingered: int, hours: int, failed: bool
    ) -> None:
        ground = Ground()
        lease = ground.lease(ends_at=NOW + timedelta(hours=hours))
        active_at = NOW + timedelta(milliseconds=active)
        stopped_at = active_at + timedelta(milliseconds=used)
        gone_at = stopped_at + timedelta(milliseconds=lingered)
        stop = E.FAIL if failed else E.END
        segments = live(lease, (E.RUNNING, active_at), (stop, stopped_at), (E.GONE, gone_at))

        for before, after in pairwise(segments):
            assert before.ends_at is not None
            assert before.ends_at <= after.starts_at
        moments = {NOW, lease.ends_at, active_at, stopped_at, gone_at}
        probes = {moment + nudge for moment in moments for nudge in (timedelta(0), -SECOND / 1000)}
        for probe in probes:
            usable = active_at <= probe < stopped_at and NOW <= probe < lease.ends_at
            over = active_at <= probe < gone_at and probe >= lease.ends_at
            covering = [s.cause for s in segments if s.ends_at and s.starts_at <= probe < s.ends_at]
            assert covering == ["use"] * usable + ["overrun"] * over
        assert all(segment.ends_at is not None for segment in segments)

    @settings(max_examples=60, deadline=None)
    @given(
        rates=st.lists(st.integers(0, 99_999_999), min_size=4, max_size=4),
        lengths=st.lists(st.integers(1, 200_000), min_size=2, max_size=2),
        percent=st.integers(0, 10_000),
        ahead=st.integers(0, 48),
        zone=st.sampled_from(["Europe/Berlin", "Asia/Kolkata", "America/St_Johns"]),
    )
    def test_what_is_used_in_full_costs_what_was_quoted(
        self, rates: list[int], lengths: list[int], percent: int, ahead: int, zone: str
    ) -> None:
        """Also over months, clocks that change, peak hours, and an extension at another price."""
        ground = Ground()
        Tenant.objects.update(timezone=zone)
        per_hour = [Decimal(rate) / 10_000 for rate in rates]
        starts_at = datetime(2026, 3, 28, tzinfo=UTC)
        middle, ends_at = (starts_at + sum(lengths[:n]) * SECOND for n in (1, 2))
        for at, (peak, off_peak) in ((starts_at, per_hour[:2]), (middle, per_hour[2:])):
            Rate.objects.create(
                flavor=ground.flavor, per_hour=peak, off_peak_per_hour=off_peak, currency="EUR",
                peak_zone=zone, reserved_hours=24, reserved_percent=20, valid_from=at,
            )  # fmt: skip
        tenant = Tenant.objects.get()
        Discount.objects.create(tenant=tenant, percent=Decimal(percent) / 100, valid_from=NOW)
        lease = ground.lease(tenant=tenant, starts_at=starts_at, ends_at=middle)
        quote = fill_quote(lease, now=starts_at - timedelta(hours=ahead))
        lease.save()
        keep_terms(lease, quote)
        more = quote_extension(lease, ends_at, now=middle)
        asked = Extension.objects.create(
            lease=lease, old_ends_at=middle, new_ends_at=ends_at, rate_per_hour=more.rate_per_hour,
            currency="EUR", quoted_total=more.total, asked_by=ground.person, asked_at=middle,
            state=Extension.State.CONFIRMED, state_since=middle,
        )  # fmt: skip
        append_terms(lease, asked, more.terms)
        lease.ends_at = ends_at
        live(lease, (E.RUNNING, starts_at - SECOND), (E.END, ends_at + SECOND))
        segments = UsageSegment.objects.filter(lease=lease)
        assert lease_amount(segments, ends_at) == quote.total + more.total

    @settings(max_examples=60, deadline=None)
    @given(active=offsets, looked=st.lists(gaps, min_size=2, max_size=5))
    def test_the_cost_of_a_running_lease_never_falls_nor_exceeds_the_quote(
        self, active: int, looked: list[int]
    ) -> None:
        lease = Ground().lease()
        segments = live(lease, (E.RUNNING, NOW + timedelta(milliseconds=active)))
        costs = [lease_amount(segments, NOW + timedelta(milliseconds=after)) for after in sorted(looked)]
        assert costs == sorted(costs)
        assert costs[-1] <= lease.quoted_total
