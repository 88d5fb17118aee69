"""Verifying the log and keeping what came of it, for the badge on its page."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

from leasing.actors import Actor
from leasing.audit.log import record
from leasing.audit.verifier import Verdict, verify_log
from leasing.models import Verification
from leasing.transactions import atomically


def verify_and_note(*, actor: Actor, now: datetime, witness: Path | None = None) -> Verdict:
    """Verify all of it. That it was done goes into the log too."""
    began = time.monotonic()
    verdict = verify_log(witness)
    _note(verdict, actor=actor, seconds=time.monotonic() - began, now=now)
    return verdict


@atomically
def _note(verdict: Verdict, *, actor: Actor, seconds: float, now: datetime) -> None:
    anchor = verdict.anchor
    Verification.objects.create(
        verified_at=now,
        seconds=round(seconds, 3),
        proven=verdict.proven,
        sealed=verdict.sealed,
        anchored_at=anchor.signed_at if anchor else None,
        root_hash=anchor.root_hash if anchor else "",
        problems=verdict.problems,
    )
    record(
        action="audit.verify",
        actor=actor,
        subject="audit:log",
        now=now,
        proven=verdict.proven,
        sealed=verdict.sealed,
        root=anchor.root_hash if anchor else None,
        problems=verdict.problems,
    )
