"""One card's scrub, from its beginning to its evidence; plain JSON that the journal keeps between the steps.

The executor calls plant → fill → verify → conclude as separate steps. After a crash it plants and fills
again; each fill is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import msgspec

from hosts.agent import witness
from hosts.agent.bus import Card, CardMissing, MemoryWindow, Wedged
from hosts.agent.scrubber import Outcome, Progress, Scrubber, Workplace, unheard
from hosts.agent.scrubbers import Installed
from hosts.protocol import proof
from hosts.protocol.evidence import ReadBack
from hosts.protocol.first_evidence import summary
from hosts.protocol.messages import (
    Fingerprint,
    MethodRecord,
    ResetRecord,
    ScrubEvidence,
    ScrubPolicy,
    Witness,
)

Clock = Callable[[], float]


class Scrub(msgspec.Struct, frozen=True, kw_only=True):
    """One card's scrub so far."""

    simulated: bool
    vendor_device: str
    memory_bytes: int
    fingerprint_before: Fingerprint
    started_at: datetime
    kernel: str = ""
    fills: int = 0
    methods: tuple[MethodRecord, ...] = ()
    witness: Witness | None = None
    resets: tuple[ResetRecord, ...] = ()


def begin(card: Card, *, simulated: bool, before: Fingerprint, kernel: str, now: datetime) -> Scrub:
    """A scrub of which nothing is done yet. `before` is the fingerprint of intake, or of now on intake.

    What is proven is proven under `kernel`, even if the host is restarted with another one meanwhile.
    """
    return Scrub(
        simulated=simulated,
        vendor_device=card.fingerprint.vendor_device,
        memory_bytes=card.memory_bytes,
        fingerprint_before=before,
        started_at=now,
        kernel=kernel,
    )


def add_reset(scrub: Scrub, record: ResetRecord) -> Scrub:
    return msgspec.structs.replace(scrub, resets=(*scrub.resets, record))


def plant(scrub: Scrub, window: MemoryWindow, seed: str, *, clock: Clock = time.monotonic) -> Scrub:
    """Write canaries and count the fill that follows. `seed` must be one that nobody can foretell."""
    began = clock()
    planted = witness.plant(window, scrub.vendor_device, seed)
    return msgspec.structs.replace(
        scrub, witness=_timed(planted, clock() - began), methods=(), fills=scrub.fills + 1
    )


def fill(scrub: Scrub, installed: Installed, place: Workplace, *, clock: Clock = time.monotonic) -> Scrub:
    """Let one scrubber do its work. That it could not is recorded, and for the verdict to judge."""
    began = clock()
    outcome, failure = _run(installed.scrubber, place)
    record = _record(scrub, installed, outcome, failure, seconds=clock() - began)
    return msgspec.structs.replace(
        scrub, methods=(*scrub.methods, record), resets=(*scrub.resets, *place.resets)
    )


def verify(
    scrub: Scrub,
    window: MemoryWindow,
    read_back: ReadBack,
    *,
    progress: Progress = unheard,
    clock: Clock = time.monotonic,
) -> Scrub:
    """Look into the memory ourselves. Without canaries there is nothing to look for."""
    if scrub.witness is None:
        return scrub
    began = clock()
    seen = witness.look(scrub.witness, window, read_back, progress)
    return msgspec.structs.replace(scrub, witness=_timed(seen, clock() - began))


def conclude(
    scrub: Scrub, *, policy: ScrubPolicy, fingerprint_after: Fingerprint, kernel: str, now: datetime
) -> ScrubEvidence:
    """The evidence with its verdict. Whatever is missing from the scrub makes it fail.

    `kernel` is for a scrub that the previous version of this program began without naming one.
    """
    evidence = ScrubEvidence(
        **summary(scrub.methods, scrub.witness),
        simulated=scrub.simulated,
        memory_bytes=scrub.memory_bytes,
        methods=scrub.methods,
        witness=scrub.witness,
        fills=scrub.fills,
        resets=scrub.resets,
        fingerprint_before=scrub.fingerprint_before,
        fingerprint_after=fingerprint_after,
        started_at=scrub.started_at,
        finished_at=now,
        kernel=scrub.kernel or kernel,
        verdict="passed",
    )
    reasons = proof.objections(evidence, policy, expected=scrub.fingerprint_before)
    if not reasons:
        return evidence
    told = tuple(reason[:2000] for reason in reasons)
    return msgspec.structs.replace(evidence, verdict="failed", reasons=told)


def _run(scrubber: Scrubber, place: Workplace) -> tuple[Outcome, str]:
    """What it did, and why it failed if it did. A card that is gone or wedged ends the scrub as a whole."""
    try:
        return scrubber.run(place), ""
    except (CardMissing, Wedged):
        raise
    except Exception as error:  # noqa: BLE001 — whatever a scrubber does, the evidence says so
        return Outcome(reached_bytes=0), (str(error) or type(error).__name__)[:2000]


def _record(
    scrub: Scrub, installed: Installed, outcome: Outcome, failure: str, *, seconds: float
) -> MethodRecord:
    scrubber = installed.scrubber
    return MethodRecord(
        name=scrubber.name,
        version=scrubber.version,
        digest=installed.digest,
        kind=scrubber.kind,
        proven_on=scrubber.proven_on,
        proven=proof.is_proven(scrubber.proven_on, scrub.vendor_device),
        coverage=outcome.coverage,
        reached_bytes=min(outcome.reached_bytes, scrub.memory_bytes),
        written_bytes=outcome.written_bytes,
        read_back_bytes=outcome.read_back_bytes,
        mismatches=outcome.mismatches,
        pattern=outcome.pattern[:200],
        seconds=round(seconds, 3),
        facts={name[:200]: fact[:200] for name, fact in sorted(outcome.facts.items())[:32]},
        failure=failure,
    )


def _timed(seen: Witness, seconds: float) -> Witness:
    return msgspec.structs.replace(seen, seconds=round(seen.seconds + seconds, 3))
