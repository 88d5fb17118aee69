"""How a command ends: exit statuses that scripts may rely on, and failures with a hint."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Documented in `leasehold-host --help` and docs/operating.md."""

    DONE = 0
    NOT_IN_ORDER = 1
    UNUSABLE = 2
    REFUSED = 3
    NO_ANSWER = 4


MEANINGS = {
    Exit.DONE: "done; what was asked about is in order",
    Exit.NOT_IN_ORDER: "done, but something is not in order: a check failed, a scrub did not pass",
    Exit.UNUSABLE: "wrong usage, configuration or keys",
    Exit.REFUSED: "refused: it is not possible now; the message says why",
    Exit.NO_ANSWER: "no answer from the worker, the portal or libvirt",
}


class CommandFailed(Exception):
    """A command ends here: what happened, what to do, and with which status."""

    def __init__(self, message: str, hint: str = "", *, status: Exit = Exit.REFUSED) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status
