"""Which GPUs of a host serve a lease: what is chosen is the best of everything that could be."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasing.openings.spans import ALWAYS, FOREVER, Span
from leasing.placement import FreeGpu, choose_gpus
from tests.domain.oracle import best_choices

# Few lengths, so that many gaps are equally long; some never began, or never end.
GAPS = st.builds(Span, st.sampled_from([ALWAYS, 0, 1, 2]), st.sampled_from([10, 11, 12, FOREVER]))


@st.composite
def hosts(draw: st.DrawFn) -> list[FreeGpu]:
    """Up to eight free GPUs on up to three nodes, in any order."""
    facts = draw(st.lists(st.tuples(st.integers(0, 2), st.booleans(), GAPS), max_size=8))
    numbers = draw(st.permutations(range(len(facts))))
    return [FreeGpu(UUID(int=number), *fact) for number, fact in zip(numbers, facts, strict=True)]


@given(free=hosts(), count=st.integers(1, 4), one_node=st.booleans(), want_ready=st.booleans())
def test_no_other_choice_is_better(free: list[FreeGpu], count: int, one_node: bool, want_ready: bool) -> None:
    chosen = choose_gpus(free, count=count, one_node=one_node, want_ready=want_ready)
    best = best_choices(free, count=count, one_node=one_node, want_ready=want_ready)
    if chosen is None:
        assert best == []
        return
    assert len(chosen) == count
    assert frozenset(chosen) in best
    turned = choose_gpus(free[::-1], count=count, one_node=one_node, want_ready=want_ready)
    assert turned is not None
    assert set(turned) == set(chosen), "it does not hang on the order in which they were read"


def gpu(number: int, *, node: int = 0, ready: bool = True, hours: int = 9) -> FreeGpu:
    return FreeGpu(UUID(int=number), node, ready, Span(0, hours))


@pytest.mark.parametrize(
    ("free", "count", "want_ready", "numbers"),
    [
        pytest.param([gpu(1, hours=9), gpu(2, hours=5), gpu(3, hours=7)], 2, False, {2, 3}, id="shortest"),
        pytest.param(
            [gpu(1, hours=5), gpu(2, node=1, hours=6), gpu(3, node=1), gpu(4, hours=9)],
            2, False, {1, 4}, id="one-node-though-the-shortest-are-on-two",
        ),
        pytest.param(
            [gpu(1), gpu(2), gpu(3), gpu(4, node=1, hours=99), gpu(5, node=1, hours=99)],
            1, False, {4}, id="the-node-with-the-fewest-before-the-shortest",
        ),
        pytest.param(
            [gpu(1, ready=False), gpu(2), gpu(3, node=1), gpu(4, node=1, ready=False)],
            2, True, {2, 3}, id="clean-before-one-node",
        ),
        pytest.param([gpu(1, ready=False, hours=5), gpu(2)], 1, True, {2}, id="clean-before-the-shortest"),
        pytest.param([gpu(1, ready=False, hours=5), gpu(2)], 1, False, {1}, id="or-not-if-there-is-time"),
    ],
)  # fmt: skip
def test_what_comes_first(free: list[FreeGpu], count: int, want_ready: bool, numbers: set[int]) -> None:
    chosen = choose_gpus(free, count=count, one_node=False, want_ready=want_ready)
    assert chosen is not None
    assert {gpu.gpu_id.int for gpu in chosen} == numbers
