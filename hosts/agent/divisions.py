"""Which cards were divided here by order, as the journal keeps it, and whether they still are.

A reboot takes every slice away. They are made again before anything is offered: the same card, profile and
count give the same addresses. Whether a slice is clean is another question, and each is scrubbed again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal
from uuid import UUID

import msgspec

from hosts.agent.bus import BusError, Slice
from hosts.agent.doctor import verdicts
from hosts.agent.drift_notes import seen
from hosts.agent.plans import gpu_lock
from hosts.agent.rig import Books, Rig
from hosts.protocol.checkup import Check

log = logging.getLogger(__name__)

_KEY = "divisions"
Likeness = Literal["as-ordered", "gone", "other"]


class Division(msgspec.Struct, frozen=True, kw_only=True):
    """A card that was ordered to be divided. Its `slices` are known once they were made."""

    gpu_id: UUID
    tenure: int
    address: str
    profile: str
    count: int
    slices: tuple[str, ...] = ()

    def compare(self, found: Sequence[Slice]) -> Likeness:
        """Whether what was found is what was ordered."""
        if not found:
            return "gone"
        alike = len(found) == self.count and all(each.profile == self.profile for each in found)
        return "as-ordered" if alike else "other"


_DIVISIONS = msgspec.json.Decoder(tuple[Division, ...])


def divisions(books: Books) -> tuple[Division, ...]:
    """Every division that stands, or was begun and is not over."""
    with books.journal.transaction():
        text = books.journal.recall(_KEY)
    return () if text is None else _DIVISIONS.decode(text)


def division_of(books: Books, address: str) -> Division | None:
    """That of the card at this address."""
    return next((each for each in divisions(books) if each.address == address), None)


def remember_division(books: Books, division: Division) -> None:
    """Instead of what was known of that card."""
    with books.journal.transaction():
        _write(books, [*_others(books, division.address), division])


def forget_division(books: Books, address: str) -> None:
    """The card is whole."""
    with books.journal.transaction():
        _write(books, _others(books, address))


def _others(books: Books, address: str) -> list[Division]:
    return [each for each in divisions(books) if each.address != address]


def _write(books: Books, kept: Sequence[Division]) -> None:
    books.journal.remember(_KEY, msgspec.json.encode(kept).decode())


def look_at_divisions(rig: Rig) -> tuple[Check, ...]:
    """Make again what is gone, tell where something else is found. A plan's card is that plan's business."""
    found = []
    for division in divisions(rig):
        lock = gpu_lock(division.address)
        if not any(lock in plan.locks for plan in rig.plans.open()):
            found += _look(rig, division)
    return tuple(found)


def _look(rig: Rig, division: Division) -> list[Check]:
    try:
        card = rig.bus.card(division.address)
        there = rig.bus.slices(card)
        likeness = division.compare(there)
        if likeness == "gone":
            rig.bus.divide(card, division.profile, division.count)
            there = rig.bus.slices(card)
    except BusError as error:
        return [_told(division, "left", reason=str(error)[:500])]
    if division.compare(there) == "as-ordered":
        return [_told(division, "restored")] if likeness == "gone" else []
    return [_told(division, "other", found=str(len(there)))]


def _told(division: Division, outcome: str, **facts: str) -> Check:
    told = {"profile": division.profile, "count": str(division.count), **facts}
    log.warning("The division of %s: %s %s", division.address, outcome, told)
    verdict: Literal["warn", "fail"] = "warn" if outcome == "restored" else "fail"
    read = seen("divided-card", division.address, told)
    return verdicts.found(verdict, "divided-card", outcome, read, subject=division.address, **told)
