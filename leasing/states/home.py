"""Lifecycle of a home volume: (state, event) → state. Attached, it is one lease's and nobody else's.

While it is being read, a small machine looks into it for its person, and no lease can have it.
"""

from enum import StrEnum


class HomeState(StrEnum):
    DETACHED = "detached"
    ATTACHED = "attached"
    READING = "reading"
    REMOVING = "removing"
    REMOVED = "removed"


class HomeEvent(StrEnum):
    ATTACH = "attach"
    DETACH = "detach"
    READ = "read"
    CLOSE = "close"
    REMOVE = "remove"
    GONE = "gone"


S, E = HomeState, HomeEvent

INITIAL = frozenset({S.DETACHED})
TRANSITIONS: dict[tuple[HomeState, HomeEvent], HomeState] = {
    (S.DETACHED, E.ATTACH): S.ATTACHED,
    (S.ATTACHED, E.DETACH): S.DETACHED,
    (S.DETACHED, E.READ): S.READING,
    (S.READING, E.CLOSE): S.DETACHED,
    (S.DETACHED, E.REMOVE): S.REMOVING,
    (S.REMOVING, E.GONE): S.REMOVED,
}

# In these it can be given to a lease, at once or once it is free.
USABLE = frozenset({S.DETACHED, S.ATTACHED, S.READING})
