"""Lifecycle of a GPU: (state, event) → state. Unknown is never clean; only a passed scrub leads to clean."""

from enum import StrEnum


class GpuState(StrEnum):
    CLEAN = "clean"
    LEASED = "leased"
    DIRTY = "dirty"
    SCRUBBING = "scrubbing"
    QUARANTINED = "quarantined"
    MAINTENANCE = "maintenance"
    MISSING = "missing"


class GpuEvent(StrEnum):
    HAND_OVER = "hand-over"
    RELEASE = "release"
    SCRUB = "scrub"
    PASS = "pass"  # noqa: S105 - an event, not a password
    QUARANTINE = "quarantine"
    DISTRUST = "distrust"
    WITHDRAW = "withdraw"
    VANISH = "vanish"
    READMIT = "readmit"


S, E = GpuState, GpuEvent

INITIAL = frozenset({S.DIRTY})
TRANSITIONS: dict[tuple[GpuState, GpuEvent], GpuState] = {
    (S.CLEAN, E.HAND_OVER): S.LEASED,
    (S.CLEAN, E.DISTRUST): S.DIRTY,
    (S.CLEAN, E.WITHDRAW): S.MAINTENANCE,
    (S.CLEAN, E.QUARANTINE): S.QUARANTINED,
    (S.CLEAN, E.VANISH): S.MISSING,
    (S.LEASED, E.RELEASE): S.DIRTY,
    (S.LEASED, E.VANISH): S.MISSING,
    (S.LEASED, E.QUARANTINE): S.QUARANTINED,
    (S.DIRTY, E.SCRUB): S.SCRUBBING,
    (S.DIRTY, E.WITHDRAW): S.MAINTENANCE,
    (S.DIRTY, E.QUARANTINE): S.QUARANTINED,
    (S.DIRTY, E.VANISH): S.MISSING,
    (S.SCRUBBING, E.PASS): S.CLEAN,
    (S.SCRUBBING, E.QUARANTINE): S.QUARANTINED,
    (S.SCRUBBING, E.DISTRUST): S.DIRTY,
    (S.SCRUBBING, E.VANISH): S.MISSING,
    (S.QUARANTINED, E.READMIT): S.DIRTY,
    (S.MAINTENANCE, E.READMIT): S.DIRTY,
    (S.MISSING, E.READMIT): S.DIRTY,
}

# Holds may be placed on a GPU in these states: it serves people now or will as soon as it is clean.
BOOKABLE = frozenset({S.CLEAN, S.LEASED, S.DIRTY, S.SCRUBBING})
