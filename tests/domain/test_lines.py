"""The pure rules of a line: who is before whom, until when one may claim, what fits, what is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import combinations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leasing.lines import Share, Wish, claim_until, fewest_in_the_way, first_start, setback, times_fair
from leasing.openings.spans import FOREVER, Open, Span
from leasing.timing import CLAIM_WINDOW, LONGEST_SETBACK

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LENGTH = 30

on_any_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

shares = st.builds(Share, st.integers(0, 10**9), st.integers(1, 100))
moments = st.integers(0, LENGTH)
spans = st.tuples(moments, moments).map(lambda two: Span(min(two), max(two) + 1))
wishes = st.builds(
    Wish,
    gpus=st.integers(1, 3),
    duration=st.integers(1, 8),
    earliest=moments,
    last_start=moments,
    apart=st.lists(spans, max_size=3).map(tuple),
)
openings = st.lists(
    st.tuples(spans, st.booleans(), st.integers(1, 3)).map(
        lambda one: Open(one[0].starts, FOREVER if one[1] else one[0].ends, one[2])
    ),
    max_size=4,
)


@on_any_machine
@given(shares, st.lists(shares, max_size=5))
def test_a_team_that_had_exactly_its_share_had_it_once(own: Share, others: list[Share]) -> None:
    total = sum(one.gpu_seconds for one in [own, *others])
    weights = sum(one.weight for one in [own, *others])
    times = times_fair(own, [own, *others])
    assert times * own.weight * total == own.gpu_seconds * weights
    assert times >= 0


@on_any_machine
@given(shares, st.lists(shares, max_size=5), st.integers(1, 10**6))
def test_more_use_never_places_a_team_earlier_nor_more_weight_later(
    own: Share, others: list[Share], more: int
) -> None:
    def place(one: Share) -> timedelta:
        return setback(times_fair(one, [one, *others]))

    assert place(Share(own.gpu_seconds + more, own.weight)) >= place(own)
    assert place(Share(own.gpu_seconds, own.weight + more)) <= place(own)


@on_any_machine
@given(st.fractions(0, 50))
def test_the_setback_is_bounded_and_half_of_it_is_for_the_fair_share(times: Fraction) -> None:
    assert timedelta(0) <= setback(times) <= LONGEST_SETBACK
    assert setback(Fraction(1)) == LONGEST_SETBACK / 2
    assert setback(Fraction(2)) == setback(Fraction(3)) == LONGEST_SETBACK


@on_any_machine
@given(st.lists(st.tuples(st.integers(0, 10**6), st.fractions(0, 3)), min_size=2, max_size=8))
def test_nobody_is_overtaken_by_who_joins_a_setback_later(joined: list[tuple[int, Fraction]]) -> None:
    entries = [(NOW + timedelta(seconds=at), times) for at, times in joined]
    for (at, times), (later, their_times) in combinations(sorted(entries), 2):
        if later >= at + LONGEST_SETBACK:
            assert at + setback(times) <= later + setback(their_times)


@on_any_machine
@given(st.integers(0, 10**6), st.integers(60, 10**6))
def test_an_offer_may_be_claimed_for_a_while_and_costs_a_quarter_at_most(ahead: int, seconds: int) -> None:
    starts_at, duration = NOW + timedelta(seconds=ahead), timedelta(seconds=seconds)
    until = claim_until(starts_at, duration, now=NOW)
    assert NOW < until <= NOW + CLAIM_WINDOW
    assert until <= starts_at + duration / 4
    if starts_at >= NOW + CLAIM_WINDOW:
        assert until == NOW + CLAIM_WINDOW


@on_any_machine
@given(wishes, openings, st.integers(0, 3), st.integers(0, 3), moments)
def test_the_first_start_is_the_first_of_all_that_would_do(
    wish: Wish, found: list[Open], lead: int, turnaround: int, now: int
) -> None:
    def would_do(start: int) -> bool:
        ends = start + wish.duration
        refused = any(start < span.ends and ends > span.starts for span in wish.apart)
        held = max(now, start - lead), ends + turnaround
        room = any(one.gpus >= wish.gpus and one.starts <= held[0] and one.ends >= held[1] for one in found)
        return start >= now and not refused and room

    due = [start for start in range(wish.earliest, wish.last_start + 1) if would_do(start)]
    assert first_start(wish, found, lead=lead, turnaround=turnaround, now=now) == min(due, default=None)


@on_any_machine
@given(
    st.dictionaries(
        st.integers(0, 3), st.dictionaries(st.integers(0, 5), st.integers(0, 4), max_size=5), max_size=4
    ),
    st.integers(1, 3),
)
def test_what_is_kept_has_the_fewest_bookings_in_the_way(
    groups: dict[int, dict[int, int]], count: int
) -> None:
    sums = [
        sum(groups[key][gpu] for gpu in chosen)
        for key in groups
        for chosen in combinations(groups[key], count)
    ]
    found = fewest_in_the_way(groups, count)
    if found is None:
        assert not sums
    else:
        key, chosen = found
        assert len(set(chosen)) == count
        assert sum(groups[key][gpu] for gpu in chosen) == min(sums)
