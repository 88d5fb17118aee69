"""Lifecycle of a home volume: (state, event) → state. Attached, it is one lease's and nobody else's."""

from enum import StrEnum


class HomeState(StrEnum):
    DETACHED = "detached"
    ATTACHED = "attached"
    REMOVING = "removing"
    REMOVED = "removed"


class HomeEvent(StrEnum):
    ATTACH = "attach"
    DETACH = "detach"
    REMOVE = "remove"
    GONE = "gone"


S, E = HomeState, HomeEvent

INITIAL = frozenset({S.DETACHED})
TRANSITIONS: dict[tuple[HomeState, HomeEvent], HomeState] = {
    (S.DETACHED, E.ATTACH): S.ATTACHED,
    (S.ATTACHED, E.DETACH): S.DETACHED,
    (S.DETACHED, E.REMOVE): S.REMOVING,
    (S.REMOVING, E.GONE): S.REMOVED,
}
