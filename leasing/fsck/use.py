"""Check that nothing was given back as unused that was used, or of which its owner was not warned in time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from leasing.fsck.finding import Finding
from leasing.fsck.history import acts
from leasing.timing import UNUSED_WARNING


def given_back_was_unused(now: datetime) -> Iterator[Finding]:
    """What was given back as unused had not been used, and its owner had been warned in time"""
    warned: dict[str, datetime] = {}
    used: set[str] = set()
    for act in acts("lease.unused", "lease.in-use", "lease.end", "console.open", "power."):
        if act.action == "lease.unused":
            warned[act.subject] = act.recorded_at
        elif act.action != "lease.end":
            used.add(act.subject)
        elif act.detail.get("unused"):
            if act.subject in used:
                yield Finding(act.subject, "was given back as unused, but was used")
            if act.subject not in warned or act.recorded_at - warned[act.subject] < UNUSED_WARNING:
                yield Finding(act.subject, "was given back as unused without a warning in time")
