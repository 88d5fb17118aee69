"""When GPUs are free together: all that the table keeps of it is true, and searches find all of it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hosts.models import Gpu, Host
from leasing.models import Block, Closure, Opening
from leasing.openings.search import Pool, Scope, first_start, is_open, latest_end, tightest_block
from leasing.openings.spans import (
    ALWAYS,
    EVER,
    FOREVER,
    LAST_BOUNDED,
    QUARTER,
    Open,
    Span,
    classes_from,
    clipped,
    gaps,
    length_classes,
    micros,
    moment,
    openings,
    touching,
)
from leasing.openings.upkeep import rebuild
from leasing.slots import bookable
from tests.domain.ground import NOW, Ground
from tests.domain.oracle import MINUTE

LENGTH = 60

minutes = st.integers(0, LENGTH)
busy_spans = st.lists(st.tuples(minutes, minutes).map(sorted).map(tuple), max_size=5)


def every_opening(free: list[list[Span]]) -> set[Open]:
    """By trying every pair of a start and an end."""
    starts = {gap.starts for one in free for gap in one}
    ends = {gap.ends for one in free for gap in one}
    count = {
        (s, e): sum(any(gap.starts <= s and gap.ends >= e for gap in one) for one in free)
        for s, e in itertools.product(starts, ends)
        if s < e
    }
    found = {Open(s, e, n) for (s, e), n in count.items() if n}
    return {
        one
        for one in found
        if not any(
            other != one and other.starts <= one.starts and other.ends >= one.ends and other.gpus >= one.gpus
            for other in found
        )
    }


@given(st.lists(busy_spans, min_size=1, max_size=4))
def test_openings_are_all_that_are_free_together_and_no_longer_ones_exist(
    busy: list[list[tuple[int, int]]],
) -> None:
    free = [gaps(Span(a + 1, b + 2) for a, b in spans) for spans in busy]
    found = list(openings(free))
    assert len(found) == len(set(found))
    assert set(found) == every_opening(free)


@given(st.lists(busy_spans, min_size=1, max_size=4), minutes, minutes)
def test_what_lies_near_a_change_is_all_that_it_can_change(
    busy: list[list[tuple[int, int]]], a: int, b: int
) -> None:
    """Openings that touch a region follow from the gaps that touch it."""
    region = Span(min(a, b), max(a, b) + 1)
    free = [gaps(Span(s + 1, e + 2) for s, e in spans) for spans in busy]
    nearby = [touching(one, region) for one in free]
    meets = lambda one: one.starts <= region.ends and one.ends >= region.starts  # noqa: E731
    assert set(filter(meets, openings(nearby))) == set(filter(meets, openings(free)))


@given(
    st.lists(st.builds(Open, minutes, minutes.map(lambda end: end + LENGTH), st.integers(1, 3)), max_size=8),
    st.integers(0, 2 * LENGTH),
)
def test_from_a_time_on_only_those_count_that_lie_within_no_other(found: list[Open], now: int) -> None:
    ahead = {Open(max(one.starts, now), one.ends, one.gpus) for one in found if one.ends > now}
    within = {
        one
        for one, other in itertools.permutations(ahead, 2)
        if other.starts <= one.starts and other.ends >= one.ends and other.gpus >= one.gpus
    }
    assert clipped(found, now) == ahead - within


@given(st.integers(0, 6000 * QUARTER), st.integers(1, 6000 * QUARTER))
def test_probes_look_into_every_class_that_may_be_long_enough(asked: int, length: int) -> None:
    levels = classes_from(asked)
    assert sum(map(len, levels)) <= 46
    hits = [
        (level, number)
        for level, number in enumerate(length_classes(1, 1 + length))
        if number in levels[level]
    ]
    assert len(hits) == 1 if length >= asked else hits in ([], [(0, levels.fine.start)])
    assert max(levels.fine) <= LAST_BOUNDED


def test_what_never_ends_and_what_never_began_have_classes_of_their_own() -> None:
    assert length_classes(5, FOREVER)[0] != length_classes(0, 5)[0]
    assert length_classes(*EVER) == length_classes(5, FOREVER)
    assert {*length_classes(5, FOREVER)[1:], *length_classes(0, 5)[1:]} == {None}


quarters = st.integers(0, 1 << 13).map(lambda n: n * QUARTER // 2) | st.integers(0, 50 * 96).map(
    lambda n: n * QUARTER
)
lengths = st.integers(1, 12).flatmap(lambda bits: st.integers(1, 1 << bits)).map(lambda n: n * QUARTER // 2)


@st.composite
def kept_openings(draw: st.DrawFn) -> Open:
    """Of any length up to two months, a few without a start or an end."""
    starts = draw(st.just(ALWAYS) | quarters.map(lambda at: micros(NOW) + at))
    ends = FOREVER if draw(st.integers(0, 7)) == 0 else max(starts, micros(NOW)) + draw(lengths)
    return Open(starts, ends, draw(st.integers(1, 4)))


@pytest.mark.django_db
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(kept_openings(), max_size=12), quarters, lengths, st.integers(1, 4))
def test_searches_find_openings_of_every_length(
    ground: Ground, kept: list[Open], at: int, length: int, count: int
) -> None:
    block = Block.objects.get()
    block.gpus = 4
    block.save()
    rows = [
        Opening(block=block, model=block.model, scope=Scope.ONLY_NODE, **one._asdict(), **by_length(one))
        for one in kept
    ]
    Opening.objects.all().delete()
    Opening.objects.bulk_create(rows)
    pool, starts = Pool(block.model_id, count), micros(NOW) + at
    ends = starts + length
    wide = [one for one in kept if one.gpus >= count]
    covering = [one for one in wide if one.starts <= starts and one.ends >= ends]
    later = [one.starts for one in wide if one.starts > starts and one.ends - one.starts >= length]
    lasting = [one.ends for one in wide if one.starts <= starts < one.ends]
    assert is_open(pool, starts, ends) == bool(covering)
    assert tightest_block(pool, starts, ends) == (block.pk if covering else None)
    assert tightest_block(pool, starts, ends, without=[block.pk]) is None
    assert latest_end(pool, starts) == max(lasting, default=None)
    first = starts if covering else min(later, default=None)
    assert first_start(pool, starts, ends, length=length) == first


def by_length(one: Open) -> dict[str, int | None]:
    return dict(zip(("fine", "middle", "coarse"), length_classes(one.starts, one.ends), strict=True))


@pytest.mark.django_db
def test_windows_of_leases_overlap_where_another_host_goes_on_longer() -> None:
    """The first GPU is free until 60 and again from 240; the second from 30 until 150, and never again."""
    ground = Ground()
    first, other = Gpu.objects.filter(host=ground.host)[:1].get(), ground.host
    Gpu.objects.exclude(pk=first.pk).delete()
    second_host = Host.objects.create(
        name="second", account="second", signing_key="2" * 64, key_id="2" * 16, sealing_key="2" * 64
    )
    second = Gpu.objects.create(
        host=second_host, model=ground.model, address="0000:02:00.0", numa_node=0, state="clean",
        state_since=NOW, share_vcpus=1, share_memory_mib=1, share_disk_gib=1,
    )  # fmt: skip

    def close(gpu: Gpu, starts: int, ends: int | None) -> None:
        ends_at = None if ends is None else NOW + ends * MINUTE
        Closure.objects.create(
            host=gpu.host, gpu=gpu, starts_at=NOW + starts * MINUTE, ends_at=ends_at, created_at=NOW
        )

    close(first, 60, 240)
    close(second, 0, 30)
    close(second, 150, None)
    for host in (other, second_host):
        rebuild(host.pk)
    lead = ground.model.lead_seconds // 60
    turnaround = ground.model.turnaround_seconds // 60

    def windows(since: int, until: int) -> list[tuple[int, int]]:
        found = bookable(ground.flavor, NOW + since * MINUTE, NOW + until * MINUTE, now=NOW)
        return [((moment(a) - NOW) // MINUTE, (moment(b) - NOW) // MINUTE) for a, b in found]

    overlapping = [(0, 60 - turnaround), (30 + lead, 150 - turnaround)]
    assert windows(0, 300) == [*overlapping, (240 + lead, 300)]
    assert windows(40, 100) == [(40, 100)], "what began before is cut, and what lies within is left out"
    assert windows(160, 200) == []
