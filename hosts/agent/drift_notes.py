"""What the last comparison found to be otherwise than it should be, as the journal keeps it to be told."""

from __future__ import annotations

import msgspec

from hosts.agent.rig import Books
from hosts.protocol.checkup import Check

KEPT_AT_MOST = 100
_KEY = "differences"
_CHECKS = msgspec.json.Decoder(tuple[Check, ...])


def differences_found(books: Books) -> tuple[Check, ...]:
    """A warning for each thing that was mended, a failure for each that was left."""
    with books.journal.transaction():
        text = books.journal.recall(_KEY)
    return () if text is None else _CHECKS.decode(text)


def note_differences(books: Books, found: tuple[Check, ...]) -> None:
    """Replace what an earlier comparison found."""
    with books.journal.transaction():
        if found != differences_found(books):
            books.journal.remember(_KEY, msgspec.json.encode(found[:KEPT_AT_MOST]).decode())
