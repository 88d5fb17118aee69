"""Lifecycle of a snapshot: (state, event) → state. Of one that failed, whatever there may be is removed."""

from enum import StrEnum


class SnapshotState(StrEnum):
    WANTED = "wanted"
    TAKING = "taking"
    KEPT = "kept"
    REMOVING = "removing"
    REMOVED = "removed"


class SnapshotEvent(StrEnum):
    CANCEL = "cancel"
    ORDER = "order"
    TAKEN = "taken"
    FAIL = "fail"
    REMOVE = "remove"
    GONE = "gone"


S, E = SnapshotState, SnapshotEvent

# Wanted: it is taken when its lease ends.
INITIAL = frozenset({S.WANTED, S.TAKING})
TRANSITIONS: dict[tuple[SnapshotState, SnapshotEvent], SnapshotState] = {
    (S.WANTED, E.CANCEL): S.REMOVED,
    (S.WANTED, E.ORDER): S.TAKING,
    (S.TAKING, E.TAKEN): S.KEPT,
    (S.TAKING, E.FAIL): S.REMOVING,
    (S.KEPT, E.REMOVE): S.REMOVING,
    (S.REMOVING, E.GONE): S.REMOVED,
}
COMING = frozenset({S.WANTED, S.TAKING})
