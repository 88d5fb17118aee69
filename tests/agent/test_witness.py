"""The host's own look into the memory: canaries in every part of it, and what reading finds afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.agent import witness
from hosts.agent.memory import MappedWindow, OneByOne
from hosts.agent.witness import BLOCK, CANARIES, CANARY_BYTES, canaries, found, look, plant
from tests.agent.memory_files import memory

SIZE = 3 * BLOCK + 4096
CARD, OTHER = "1234:1111", "1002:744c"


@pytest.fixture
def window(tmp_path: Path) -> Iterator[MappedWindow]:
    with memory(tmp_path, SIZE) as window:
        yield window


class SlowWindow(OneByOne):
    """As a window through registers: for samples only."""

    name, is_fast = "bar0-window", False

    def __init__(self, window: MappedWindow) -> None:
        self.size, self.read = window.size, window.read
        self.fill, self.first_mismatch = window.fill, window.first_mismatch


@given(size=st.integers(CANARY_BYTES, 10**12), seed=st.text("0123456789abcdef", min_size=1))
def test_each_part_of_the_memory_has_one_canary(size: int, seed: str) -> None:
    planted = canaries(size, seed)
    slots = size // CANARY_BYTES
    parts = min(CANARIES, slots)
    edges = [part * slots // parts * CANARY_BYTES for part in range(parts + 1)]
    assert len(planted) == parts
    for canary, (start, end) in zip(planted, pairwise(edges), strict=True):
        assert start <= canary.offset <= end - CANARY_BYTES
        assert canary.offset % CANARY_BYTES == 0


def test_seed_and_size_give_the_canaries_again_and_another_seed_others() -> None:
    first = canaries(SIZE, "a")
    assert first == canaries(SIZE, "a")
    assert not {canary.value for canary in first} & {canary.value for canary in canaries(SIZE, "b")}
    assert len({canary.value for canary in first}) == CANARIES


def test_planted_canaries_are_there_and_the_record_says_where(window: MappedWindow) -> None:
    planted = plant(window, CARD, "seed")
    assert (planted.window, planted.window_bytes, planted.seed) == ("bar", SIZE, "seed")
    assert list(planted.canary_places) == [canary.offset for canary in canaries(SIZE, "seed")]
    assert (planted.canaries_refused, found(planted, window)) == (0, CANARIES)
    assert planted.coverage == "none"


@pytest.mark.parametrize(("device", "proven"), [(CARD, True), (OTHER, False)])
def test_a_window_is_proven_on_the_hardware_where_it_was_tried(
    window: MappedWindow, device: str, proven: bool
) -> None:
    assert plant(window, device, "seed").proven is proven
    assert plant(SlowWindow(window), device, "seed").proven is False


def test_memory_that_takes_no_writes_refuses_the_canaries(window: MappedWindow) -> None:
    stuck = SlowWindow(window)
    stuck.fill = lambda offset, length, pattern: None
    planted = plant(stuck, CARD, "seed")
    assert (planted.canary_places, planted.canaries_refused) == ((), CANARIES)
    assert found(planted, window) == 0


def test_zeros_are_seen_as_zeros(window: MappedWindow) -> None:
    planted = plant(window, CARD, "seed")
    window.fill(0, SIZE, 0)
    seen = look(planted, window, "full")
    assert (seen.coverage, seen.read_bytes) == ("full", SIZE)
    assert (seen.mismatches, seen.first_mismatch, seen.canaries_found) == (0, None, 0)


@settings(max_examples=60, deadline=None)
@given(offset=st.integers(0, SIZE - 1), byte=st.integers(1, 255))
def test_a_full_reading_finds_any_byte(
    tmp_path_factory: pytest.TempPathFactory, offset: int, byte: int
) -> None:
    with memory(tmp_path_factory.mktemp("memory"), SIZE, content=b"") as window:
        planted = plant(window, CARD, "seed")
        window.fill(0, SIZE, 0)
        window.fill(offset, 1, byte)
        seen = look(planted, window, "full")
    assert (seen.mismatches, seen.first_mismatch) == (1, offset)


def test_mismatches_are_counted_by_blocks(window: MappedWindow) -> None:
    planted = plant(window, CARD, "seed")
    window.fill(0, SIZE, 0)
    window.fill(BLOCK - 1, 2, 1)
    window.fill(3 * BLOCK, 1, 1)
    seen = look(planted, window, "full")
    assert (seen.mismatches, seen.first_mismatch) == (3, BLOCK - 1)


def test_samples_are_both_ends_some_blocks_and_every_canary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "SAMPLES", 4)
    with memory(tmp_path, 20 * BLOCK, content=b"") as window:
        planted = plant(window, CARD, "seed")
        assert look(planted, window, "sampled").canaries_found == CANARIES
        window.fill(0, window.size, 0)
        seen = look(planted, window, "sampled")
        assert (seen.coverage, seen.mismatches) == ("sampled", 0)
        assert 4 * BLOCK <= seen.read_bytes < 7 * BLOCK
        for place in (0, window.size - 1, *planted.canary_places):
            window.fill(place, 1, 0xFF)
            assert look(planted, window, "sampled").first_mismatch == place
            window.fill(place, 1, 0)


def test_what_leaves_out_two_neighbouring_parts_is_always_caught(tmp_path: Path) -> None:
    """However the seed falls: some canary lies in what was left out."""
    with memory(tmp_path, 8 * BLOCK, content=b"") as window:
        left_out = 2 * window.size // CANARIES
        for number in range(20):
            planted = plant(window, CARD, f"seed {number}")
            start = (number * window.size // 20) // 4096 * 4096
            end = min(window.size, start + left_out)
            window.fill(0, start, 0)
            window.fill(end, window.size - end, 0)
            assert found(planted, window) > 0
            window.fill(0, window.size, 0)


def test_a_slow_window_is_sampled_whatever_is_asked(tmp_path: Path) -> None:
    with memory(tmp_path, 4 * BLOCK, content=b"") as window:
        planted = plant(SlowWindow(window), CARD, "seed")
        window.fill(0, window.size, 0)
        assert look(planted, SlowWindow(window), "full").coverage == "sampled"


def test_the_journal_can_keep_it(window: MappedWindow) -> None:
    planted = plant(window, CARD, "seed")
    assert msgspec.json.decode(msgspec.json.encode(planted), type=type(planted)) == planted
