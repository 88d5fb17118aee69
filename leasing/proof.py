"""When evidence proves a GPU clean to the portal: by its own policy and its own knowledge of the model."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from hosts.protocol import proof
from hosts.protocol.messages import Fingerprint, ScrubEvidence, ScrubPolicy
from leasing.audit.log import canonical


def objections(
    evidence: ScrubEvidence, policy: ScrubPolicy, *, memory_bytes: int, expected: Fingerprint | None
) -> list[str]:
    """Why the evidence does not prove the GPU clean; nothing if it does.

    `memory_bytes` is what this model has: a host that sees less of it has not reached all of it.
    """
    judged = msgspec.structs.replace(evidence, memory_bytes=max(memory_bytes, evidence.memory_bytes))
    found = proof.objections(judged, policy, expected=expected or evidence.fingerprint_before)
    if evidence.verdict == "failed":
        found += evidence.reasons or ["The host says that the scrub failed."]
    return list(dict.fromkeys(found))


def evidence_digest(evidence: dict[str, Any]) -> str:
    """SHA-256, in hex, of evidence as canonical JSON: what the audit log knows it by."""
    return sha256(canonical(evidence).encode()).hexdigest()
