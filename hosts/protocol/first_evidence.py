"""Evidence in the words of protocol 1, which knew one scrubber and one reading; it goes when that goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hosts.protocol.evidence import MethodRecord, ScrubEvidence, Witness

WORDS = (
    "scrubber", "scrubber_version", "scrubber_digest", "proven", "coverage", "reached_bytes", "written_bytes",
    "read_back_bytes", "pattern", "mismatches", "canaries_planted", "canaries_found",
)  # fmt: skip
_NOTHING = MethodRecord(name="", version="", digest="0" * 64, kind="claim", proven_on=(), proven=False)
_NOBODY = Witness(window="", window_bytes=0, proven=False, seed="", canaries_planted=0)


def summary(methods: Sequence[MethodRecord], witness: Witness | None) -> dict[str, Any]:
    """What protocol 1 is told: the furthest reaching method that counts, and what all saw together."""
    first = max(methods, key=lambda record: (record.counts, record.reached_bytes), default=_NOTHING)
    seen = witness or _NOBODY
    return {
        "scrubber": first.name,
        "scrubber_version": first.version,
        "scrubber_digest": first.digest,
        "proven": first.counts and seen.proven,
        "coverage": seen.coverage,
        "reached_bytes": first.reached_bytes,
        "written_bytes": first.written_bytes,
        "read_back_bytes": seen.read_bytes,
        "pattern": first.pattern,
        "mismatches": seen.mismatches + sum(record.mismatches for record in methods),
        "canaries_planted": seen.canaries_planted,
        "canaries_found": seen.canaries_found,
    }


def unfolded(evidence: ScrubEvidence) -> ScrubEvidence:
    """The evidence with a method and a witness, also if a host said it in the words of protocol 1."""
    if evidence.methods or evidence.witness or not evidence.scrubber:
        return evidence
    method = MethodRecord(
        name=evidence.scrubber,
        version=evidence.scrubber_version,
        digest=evidence.scrubber_digest,
        kind="overwrite",
        proven_on=(),
        proven=evidence.proven,
        reached_bytes=evidence.reached_bytes,
        written_bytes=evidence.written_bytes,
        pattern=evidence.pattern,
    )
    witness = Witness(
        window="bar",
        window_bytes=evidence.reached_bytes,
        proven=evidence.proven,
        seed="",
        canaries_planted=evidence.canaries_planted,
        canaries_found=evidence.canaries_found,
        coverage=evidence.coverage,
        read_bytes=evidence.read_back_bytes,
        mismatches=evidence.mismatches,
    )
    return msgspec.structs.replace(evidence, methods=(method,), witness=witness)


def without_summary(evidence: ScrubEvidence) -> dict[str, Any]:
    """The evidence as it is kept: by methods and witness alone."""
    facts: dict[str, Any] = msgspec.to_builtins(unfolded(evidence))
    return {name: fact for name, fact in facts.items() if name not in WORDS}
