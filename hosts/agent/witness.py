"""The host's own look into a card's memory: canaries that no scrubber knows, and a reading afterwards.

Places and values come from a seed and the size of the window alone, so that a record can be checked later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random

import msgspec

from hosts.agent.bus import MemoryWindow
from hosts.agent.scrubber import Progress, unheard
from hosts.protocol.evidence import ReadBack
from hosts.protocol.messages import Witness
from hosts.protocol.proof import is_proven

BLOCK = 1024 * 1024
CANARY_BYTES = 32
# One in each part of the memory: a scrubber that leaves out two neighbouring parts is caught always.
CANARIES = 128
SAMPLES = 64
STRIDE = 256 * BLOCK
# Where a window was shown to be the memory itself, whatever lies behind it.
PROVEN_WINDOWS = {"bar": ("1234:*",), "bar0-window": ()}

Span = tuple[int, int]


class Canary(msgspec.Struct, frozen=True):
    """A random value at a random place."""

    offset: int
    value: bytes


def canaries(size: int, seed: str) -> list[Canary]:
    """What the seed plants into `size` bytes: one canary at a random place in each part of them."""
    rng = Random(f"{seed} canaries")  # noqa: S311 — the seed is secret until the record is written
    return [Canary(place, rng.randbytes(CANARY_BYTES)) for place in _places(size, rng)]


def plant(window: MemoryWindow, vendor_device: str, seed: str) -> Witness:
    """Write the canaries. Only those that read back can tell anything; others are counted as refused."""
    wanted = canaries(window.size, seed)
    window.write_each([(canary.offset, canary.value) for canary in wanted])
    taken = tuple(canary.offset for canary in _still_there(wanted, window))
    return Witness(
        window=window.name,
        window_bytes=window.size,
        proven=is_proven(PROVEN_WINDOWS.get(window.name, ()), vendor_device),
        seed=seed,
        canaries_planted=len(taken),
        canary_places=taken,
        canaries_refused=len(wanted) - len(taken),
    )


def look(
    witness: Witness, window: MemoryWindow, read_back: ReadBack, progress: Progress = unheard
) -> Witness:
    """Read the memory: all of it, or its ends, samples and the canaries' places."""
    full = read_back == "full" and window.is_fast
    spans = list(_spans(window.size, STRIDE)) if full else _samples(witness, window.size)
    wrong: list[int] = []
    total, done = sum(length for _, length in spans), 0
    for offset, length in spans:
        wrong += _mismatches(window, offset, length)
        done += length
        progress(done, total)
    return msgspec.structs.replace(
        witness,
        coverage="full" if full else "sampled",
        read_bytes=total,
        mismatches=len(wrong),
        first_mismatch=min(wrong, default=None),
        canaries_found=found(witness, window),
    )


def found(witness: Witness, window: MemoryWindow) -> int:
    """How many of the canaries that were taken are still there."""
    planted = set(witness.canary_places)
    mine = [canary for canary in canaries(window.size, witness.seed) if canary.offset in planted]
    return len(_still_there(mine, window))


def _places(size: int, rng: Random) -> Iterator[int]:
    """One place in each of CANARIES equal parts, or in fewer if the memory is small."""
    slots = size // CANARY_BYTES
    parts = min(CANARIES, slots)
    for part in range(parts):
        yield rng.randrange(part * slots // parts, (part + 1) * slots // parts) * CANARY_BYTES


def _still_there(looked_for: Sequence[Canary], window: MemoryWindow) -> list[Canary]:
    seen = window.read_each([canary.offset for canary in looked_for], CANARY_BYTES)
    return [canary for canary, value in zip(looked_for, seen, strict=True) if value == canary.value]


def _mismatches(window: MemoryWindow, offset: int, length: int) -> Iterator[int]:
    """The first byte that is not zero in each block of the range that has one."""
    end = offset + length
    while offset < end and (place := window.first_mismatch(offset, end - offset, 0)) is not None:
        yield place
        offset = place - place % BLOCK + BLOCK


def _spans(size: int, step: int) -> Iterator[Span]:
    for offset in range(0, size, step):
        yield offset, min(step, size - offset)


def _samples(witness: Witness, size: int) -> list[Span]:
    """First and last block, random blocks, and where the canaries were."""
    rng = Random(f"{witness.seed} samples")  # noqa: S311 — as for the canaries
    spans = list(_spans(size, BLOCK))
    chosen = {spans[0], spans[-1], *rng.sample(spans, min(len(spans), SAMPLES))}
    return [*sorted(chosen), *_outside(chosen, witness.canary_places)]


def _outside(chosen: Iterable[Span], places: Iterable[int]) -> Iterator[Span]:
    blocks = {offset for offset, _ in chosen}
    return ((place, CANARY_BYTES) for place in places if place - place % BLOCK not in blocks)
