"""What a passing scrub is. Pure: the host draws its verdict from it, and the portal judges by it again.

A method counts for its reach only on hardware that it is proven on, and only if it wrote. What firmware or
an unproven method says is kept, and never suffices alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from hosts.protocol.evidence import Fingerprint, ScrubEvidence, ScrubPolicy, Witness
from hosts.protocol.first_evidence import unfolded


def is_proven(proven_on: Iterable[str], vendor_device: str) -> bool:
    """Whether one of the patterns, such as 1234:*, names this hardware."""
    return any(fnmatchcase(vendor_device, pattern) for pattern in proven_on)


def objections(evidence: ScrubEvidence, policy: ScrubPolicy, *, expected: Fingerprint) -> list[str]:
    """Why the evidence does not prove the GPU clean, for an operator; nothing if it does.

    `expected` is what the card was when it came into service.
    """
    return list(dict.fromkeys(_objections(unfolded(evidence), policy, expected)))


def fingerprint_changes(before: Fingerprint, after: Fingerprint) -> tuple[str, ...]:
    """Names of the fields in which the two differ."""
    return tuple(
        name for name in Fingerprint.__struct_fields__ if getattr(before, name) != getattr(after, name)
    )


def proven_reach(evidence: ScrubEvidence) -> int:
    """Bytes overwritten by the furthest reaching method that counts."""
    return max((record.reached_bytes for record in evidence.methods if record.counts), default=0)


def _objections(evidence: ScrubEvidence, policy: ScrubPolicy, expected: Fingerprint) -> Iterator[str]:
    if not evidence.resets:
        yield "The card was not reset."
    yield from _method_objections(evidence, policy)
    yield from _reach_objections(evidence, policy)
    if evidence.witness is None:
        yield "The host did not look into the memory itself."
    else:
        yield from _witness_objections(evidence.witness, evidence, policy)
    if changed := fingerprint_changes(expected, evidence.fingerprint_after):
        yield f"The card is not what it was: {', '.join(changed)} changed."


def _method_objections(evidence: ScrubEvidence, policy: ScrubPolicy) -> Iterator[str]:
    used = {record.name for record in evidence.methods}
    for name in policy.wanted:
        if name not in used:
            yield f"Policy asks for the method {name!r}, which was not used."
    for record in evidence.methods:
        if record.failure:
            yield f"{record.name}: {record.failure}"
        elif record.kind == "overwrite" and record.written_bytes < record.reached_bytes:
            yield f"{record.name} wrote only {record.written_bytes} of {record.reached_bytes} bytes."
        if record.mismatches:
            yield f"{record.name} itself read {record.mismatches} places that were not as written."


def _reach_objections(evidence: ScrubEvidence, policy: ScrubPolicy) -> Iterator[str]:
    if evidence.memory_bytes == 0:
        yield "The size of the card's memory is not known."
        return
    reached = proven_reach(evidence)
    if _suffices(reached, evidence.memory_bytes, policy):
        return
    told = f"{reached} of {evidence.memory_bytes} bytes were overwritten by a proven method"
    yield f"{told}; policy asks for {policy.required_reach_permille} ‰."
    for record in evidence.methods:
        if not record.proven:
            device = evidence.fingerprint_after.vendor_device
            yield f"The method {record.name!r} is not proven on {device}: it never suffices alone."
        elif record.kind == "claim":
            yield f"The method {record.name!r} is somebody's claim: it never suffices alone."


def _witness_objections(witness: Witness, evidence: ScrubEvidence, policy: ScrubPolicy) -> Iterator[str]:
    if not witness.proven:
        yield f"Looking through {witness.window!r} is not proven on this hardware."
    if witness.canaries_refused or not witness.canaries_planted:
        total = witness.canaries_refused + witness.canaries_planted
        yield f"{witness.canaries_refused} of {total} canaries could not be written: nothing can be proven."
    if witness.coverage == "none":
        yield "The memory was not read back."
    elif policy.read_back == "full" and not _suffices(witness.read_bytes, evidence.memory_bytes, policy):
        yield f"{witness.read_bytes} of {evidence.memory_bytes} bytes were read back; policy asks for all."
    if witness.canaries_found:
        yield f"{witness.canaries_found} of {witness.canaries_planted} canaries survived the scrub."
    if witness.mismatches:
        first = witness.first_mismatch
        where = "" if first is None else f", the first at byte {first}"
        yield f"{witness.mismatches} blocks are not zero{where}."


def _suffices(count: int, memory_bytes: int, policy: ScrubPolicy) -> bool:
    return count * 1000 >= policy.required_reach_permille * memory_bytes
