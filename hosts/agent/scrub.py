"""Scrubs a card's memory and proves it: canaries the scrubber knows nothing of, and a reading of our own.

The executor calls plant → fill → verify → conclude as separate steps and keeps the Scrub (plain JSON) in its
journal in between. After a crash it plants and fills again; each fill is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from random import Random
from typing import Literal, Protocol

import msgspec

from hosts.agent.bus import Card, MemoryWindow
from hosts.protocol.messages import Fingerprint, ResetRecord, ScrubEvidence, ScrubPolicy

BLOCK = 1024 * 1024
# Reading a BAR takes minutes per GiB on some cards: beyond this size, samples and canaries.
FULL_READ_BYTES = 1024 * BLOCK
SAMPLED_BYTES = 64 * BLOCK
CANARIES = 64
CANARY_BYTES = 32

Progress = Callable[[int, int], None]


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """What a scrubber claims to have done, in bytes. It is recorded, and never believed."""

    written_bytes: int
    read_back_bytes: int
    mismatches: int
    pattern: str


class Scrubber(Protocol):
    """A way to overwrite a card's memory."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def is_proven(self, card: Card) -> bool:
        """Whether the method has been shown to work on this hardware. An unproven one never suffices."""

    def reach(self, window_size: int, card: Card) -> int:
        """How many bytes of the card's memory the method overwrites."""

    def fill(self, window: MemoryWindow, progress: Progress) -> Filled:
        """Overwrite all it reaches, ending with zeros. `progress` takes (done, total) bytes."""


class Canary(msgspec.Struct, frozen=True):
    """A random value at a random place."""

    offset: int
    value: bytes


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """Our own reading after the fill. A mismatch is a block of up to 1 MiB that is not all zeros."""

    coverage: Literal["full", "sampled"]
    read_bytes: int
    mismatches: int
    first_mismatch: int | None
    canaries_found: int


class Scrub(msgspec.Struct, frozen=True, kw_only=True):
    """One card's scrub so far."""

    scrubber: str
    version: str
    digest: str
    simulated: bool
    proven: bool
    vendor_device: str
    memory_bytes: int
    fingerprint_before: Fingerprint
    started_at: datetime
    reached_bytes: int = 0
    canaries: tuple[Canary, ...] = ()
    canaries_refused: int = 0
    fills: int = 0
    filled: Filled | None = None
    verified: Verified | None = None
    resets: tuple[ResetRecord, ...] = ()


def begin(
    card: Card, scrubber: Scrubber, *, digest: str, simulated: bool, before: Fingerprint, now: datetime
) -> Scrub:
    """A scrub of which nothing is done yet. `before` is the fingerprint of intake, or of now on intake."""
    return Scrub(
        scrubber=scrubber.name,
        version=scrubber.version,
        digest=digest,
        simulated=simulated,
        proven=scrubber.is_proven(card),
        vendor_device=card.fingerprint.vendor_device,
        memory_bytes=card.memory_bytes,
        fingerprint_before=before,
        started_at=now,
    )


def add_reset(scrub: Scrub, record: ResetRecord) -> Scrub:
    return msgspec.structs.replace(scrub, resets=(*scrub.resets, record))


def plant(scrub: Scrub, window: MemoryWindow, rng: Random) -> Scrub:
    """Write canaries and count the fill that follows. `rng` must be one that a scrubber cannot foretell.

    Only canaries that read back can tell anything; those that do not are counted as refused.
    """
    wanted = [Canary(offset, rng.randbytes(CANARY_BYTES)) for offset in _places(window.size, rng)]
    for canary in wanted:
        window.fill(canary.offset, CANARY_BYTES, canary.value)
    taken = tuple(canary for canary in wanted if _is_there(window, canary))
    return msgspec.structs.replace(
        scrub,
        canaries=taken,
        canaries_refused=len(wanted) - len(taken),
        fills=scrub.fills + 1,
        filled=None,
        verified=None,
    )


def fill(scrub: Scrub, card: Card, window: MemoryWindow, scrubber: Scrubber, progress: Progress) -> Scrub:
    """Let the scrubber do its work."""
    reached = min(scrubber.reach(window.size, card), card.memory_bytes)
    return msgspec.structs.replace(scrub, reached_bytes=reached, filled=scrubber.fill(window, progress))


def verify(scrub: Scrub, window: MemoryWindow, rng: Random, *, full_up_to: int = FULL_READ_BYTES) -> Scrub:
    """Read the memory ourselves: all of it up to `full_up_to` bytes, else its ends, samples and canaries."""
    full = window.size <= full_up_to
    spans = list(_spans(0, window.size)) if full else _samples(window.size, rng, scrub.canaries)
    wrong = [place for span in spans if (place := window.first_mismatch(*span, 0)) is not None]
    verified = Verified(
        coverage="full" if full else "sampled",
        read_bytes=sum(length for _, length in spans),
        mismatches=len(wrong),
        first_mismatch=min(wrong, default=None),
        canaries_found=hunt(window, scrub.canaries),
    )
    return msgspec.structs.replace(scrub, verified=verified)


def hunt(window: MemoryWindow, canaries: tuple[Canary, ...]) -> int:
    """How many of the canaries are still there."""
    return sum(_is_there(window, canary) for canary in canaries)


def conclude(
    scrub: Scrub, *, policy: ScrubPolicy, fingerprint_after: Fingerprint, kernel: str, now: datetime
) -> ScrubEvidence:
    """The evidence with its verdict. Whatever is missing from the scrub makes it fail."""
    reasons = tuple(_objections(scrub, policy, fingerprint_after))
    filled = scrub.filled or Filled(written_bytes=0, read_back_bytes=0, mismatches=0, pattern="")
    verified = scrub.verified
    return ScrubEvidence(
        scrubber=scrub.scrubber,
        scrubber_version=scrub.version,
        scrubber_digest=scrub.digest,
        simulated=scrub.simulated,
        proven=scrub.proven,
        coverage=verified.coverage if verified else "none",
        memory_bytes=scrub.memory_bytes,
        reached_bytes=scrub.reached_bytes,
        written_bytes=filled.written_bytes,
        read_back_bytes=verified.read_bytes if verified else 0,
        pattern=filled.pattern,
        mismatches=filled.mismatches + (verified.mismatches if verified else 0),
        canaries_planted=len(scrub.canaries),
        canaries_found=verified.canaries_found if verified else 0,
        fills=scrub.fills,
        resets=scrub.resets,
        fingerprint_before=scrub.fingerprint_before,
        fingerprint_after=fingerprint_after,
        started_at=scrub.started_at,
        finished_at=now,
        kernel=kernel,
        verdict="failed" if reasons else "passed",
        reasons=reasons,
    )


def fingerprint_changes(before: Fingerprint, after: Fingerprint) -> tuple[str, ...]:
    """Names of the fields in which the two differ."""
    return tuple(
        name for name in Fingerprint.__struct_fields__ if getattr(before, name) != getattr(after, name)
    )


def _objections(scrub: Scrub, policy: ScrubPolicy, after: Fingerprint) -> Iterator[str]:
    if scrub.scrubber != policy.scrubber:
        yield f"Policy asks for the scrubber {policy.scrubber!r}; {scrub.scrubber!r} was used."
    if not scrub.proven:
        yield f"The scrubber {scrub.scrubber!r} is not proven on {scrub.vendor_device}: it never suffices."
    if not scrub.resets:
        yield "The card was not reset."
    yield from _reach_objections(scrub, policy)
    yield from _fill_objections(scrub)
    yield from _reading_objections(scrub)
    if changed := fingerprint_changes(scrub.fingerprint_before, after):
        yield f"The card is not what it was: {', '.join(changed)} changed."


def _reach_objections(scrub: Scrub, policy: ScrubPolicy) -> Iterator[str]:
    if scrub.memory_bytes == 0:
        yield "The size of the card's memory is not known."
    elif scrub.reached_bytes * 1000 < policy.required_reach_permille * scrub.memory_bytes:
        yield (
            f"The scrubber reaches {scrub.reached_bytes} of {scrub.memory_bytes} bytes; "
            f"policy asks for {policy.required_reach_permille} ‰."
        )


def _fill_objections(scrub: Scrub) -> Iterator[str]:
    if scrub.filled is None:
        yield "The memory was not filled."
        return
    if scrub.filled.written_bytes < scrub.reached_bytes:
        yield f"Only {scrub.filled.written_bytes} of {scrub.reached_bytes} bytes were written."
    if scrub.filled.mismatches:
        yield f"The scrubber itself read {scrub.filled.mismatches} blocks that were not as written."


def _reading_objections(scrub: Scrub) -> Iterator[str]:
    if scrub.canaries_refused or not scrub.canaries:
        total = scrub.canaries_refused + len(scrub.canaries)
        yield f"{scrub.canaries_refused} of {total} canaries could not be written: nothing can be proven."
    if scrub.verified is None:
        yield "The memory was not read back."
        return
    if scrub.verified.canaries_found:
        yield f"{scrub.verified.canaries_found} of {len(scrub.canaries)} canaries survived the scrub."
    if scrub.verified.mismatches:
        place = scrub.verified.first_mismatch
        yield f"{scrub.verified.mismatches} blocks are not zero, the first at byte {place}."


def _places(size: int, rng: Random) -> list[int]:
    """Offsets of canaries: different, aligned to their length, anywhere in the memory."""
    slots = size // CANARY_BYTES
    return [slot * CANARY_BYTES for slot in rng.sample(range(slots), min(CANARIES, slots))]


def _is_there(window: MemoryWindow, canary: Canary) -> bool:
    return window.read(canary.offset, CANARY_BYTES) == canary.value


def _spans(start: int, end: int) -> Iterator[tuple[int, int]]:
    for offset in range(start, end, BLOCK):
        yield offset, min(BLOCK, end - offset)


def _samples(size: int, rng: Random, canaries: tuple[Canary, ...]) -> list[tuple[int, int]]:
    """First and last block, random blocks, and where the canaries were."""
    spans = list(_spans(0, size))
    chosen = {spans[0], spans[-1], *rng.sample(spans, min(len(spans), SAMPLED_BYTES // BLOCK))}
    return sorted(chosen) + [(canary.offset, CANARY_BYTES) for canary in canaries]
