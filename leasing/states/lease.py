"""Lifecycle of a lease: (state, event) → state. What is not in the table does not happen."""

from enum import StrEnum


class LeaseState(StrEnum):
    OFFERED = "offered"
    REQUESTED = "requested"
    SCHEDULED = "scheduled"
    PROVISIONING = "provisioning"
    ACTIVE = "active"
    RELEASING = "releasing"
    ENDED = "ended"


class Outcome(StrEnum):
    """Why a lease ended."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"
    PASSED = "passed"
    WITHDRAWN = "withdrawn"


class LeaseEvent(StrEnum):
    CLAIM = "claim"
    ASK = "ask"
    PASS = "pass"  # noqa: S105 - an event, not a password
    WITHDRAW = "withdraw"
    APPROVE = "approve"
    REJECT = "reject"
    REVOKE = "revoke"
    EXPIRE = "expire"
    CANCEL = "cancel"
    FAIL = "fail"
    START = "start"
    RUNNING = "running"
    END = "end"
    GONE = "gone"


S, E = LeaseState, LeaseEvent

INITIAL = frozenset({S.OFFERED, S.REQUESTED, S.SCHEDULED})
TRANSITIONS: dict[tuple[LeaseState, LeaseEvent], LeaseState] = {
    (S.OFFERED, E.CLAIM): S.SCHEDULED,
    (S.OFFERED, E.ASK): S.REQUESTED,
    (S.OFFERED, E.PASS): S.ENDED,
    (S.OFFERED, E.WITHDRAW): S.ENDED,
    (S.REQUESTED, E.APPROVE): S.SCHEDULED,
    (S.REQUESTED, E.REJECT): S.ENDED,
    (S.REQUESTED, E.EXPIRE): S.ENDED,
    (S.REQUESTED, E.CANCEL): S.ENDED,
    (S.SCHEDULED, E.REVOKE): S.ENDED,
    (S.SCHEDULED, E.CANCEL): S.ENDED,
    (S.SCHEDULED, E.FAIL): S.ENDED,
    (S.SCHEDULED, E.START): S.PROVISIONING,
    (S.PROVISIONING, E.RUNNING): S.ACTIVE,
    (S.PROVISIONING, E.CANCEL): S.RELEASING,
    (S.PROVISIONING, E.FAIL): S.RELEASING,
    (S.PROVISIONING, E.END): S.RELEASING,
    (S.ACTIVE, E.END): S.RELEASING,
    (S.ACTIVE, E.FAIL): S.RELEASING,
    (S.RELEASING, E.GONE): S.ENDED,
}

# The outcome that an event decides. A lease keeps the first one it is given: one that was cancelled while
# being provisioned is still `cancelled` when its machine is gone.
OUTCOMES: dict[LeaseEvent, Outcome] = {
    E.PASS: Outcome.PASSED,
    E.WITHDRAW: Outcome.WITHDRAWN,
    E.REJECT: Outcome.REJECTED,
    E.REVOKE: Outcome.REJECTED,
    E.EXPIRE: Outcome.EXPIRED,
    E.CANCEL: Outcome.CANCELLED,
    E.FAIL: Outcome.FAILED,
    E.END: Outcome.COMPLETED,
}

# Has not begun: it may still be moved to equal GPUs.
AHEAD = frozenset({S.OFFERED, S.REQUESTED, S.SCHEDULED})
# A lease with one of these was never more than an offer.
NEVER_CLAIMED = frozenset({Outcome.PASSED, Outcome.WITHDRAWN})
HOLDING = frozenset({S.OFFERED, S.REQUESTED, S.SCHEDULED, S.PROVISIONING, S.ACTIVE, S.RELEASING})
RUNNING = frozenset({S.PROVISIONING, S.ACTIVE})
ON_HOST = frozenset({S.PROVISIONING, S.ACTIVE, S.RELEASING})
