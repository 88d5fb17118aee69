"""When evidence proves a GPU clean. Pure: the one place that says what a passing scrub is."""

from __future__ import annotations

from hosts.protocol.messages import Fingerprint, ScrubEvidence


def objections(
    evidence: ScrubEvidence, *, required_reach_permille: int, expected: Fingerprint | None
) -> list[str]:
    """Why the evidence does not prove the GPU clean; nothing if it does."""
    found = list(evidence.reasons) if evidence.verdict == "failed" else []
    if evidence.verdict == "failed" and not found:
        found.append("the host says that the scrub failed")
    if not evidence.proven:
        found.append(f"scrubber {evidence.scrubber} is not proven on this hardware")
    reached = reach_permille(evidence)
    if evidence.memory_bytes == 0 or reached < required_reach_permille:
        found.append(f"reached {reached} ‰ of memory; {required_reach_permille} ‰ are required")
    if evidence.canaries_planted == 0:
        found.append("no canaries were planted")
    if evidence.canaries_found or evidence.mismatches:
        found.append(
            f"{evidence.canaries_found} canaries and {evidence.mismatches} non-zero bytes were still there"
        )
    if evidence.written_bytes < evidence.reached_bytes or evidence.read_back_bytes == 0:
        found.append("not all that was reached was written and read back")
    if not evidence.resets:
        found.append("no reset succeeded")
    if evidence.fingerprint_after != (expected or evidence.fingerprint_before):
        found.append("the card's identity or firmware has changed")
    return list(dict.fromkeys(found))


def reach_permille(evidence: ScrubEvidence) -> int:
    """Thousandths of the card's memory that the scrub reached, rounded down."""
    return evidence.reached_bytes * 1000 // evidence.memory_bytes if evidence.memory_bytes else 0
