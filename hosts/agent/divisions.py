"""Which cards were divided here by order, as the journal keeps it, and whether they still are.

A reboot takes every slice away. They are made again before anything is offered: the same card, profile and
count give the same addresses. Whether a slice is clean is another question, and each is scrubbed again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Literal
from uuid import UUID

import msgspec

from hosts.agent.bus import BusError, CardMissing, Slice
from hosts.agent.doctor import verdicts
from hosts.agent.drift_notes import seen
from hosts.agent.held_cards import cards_in_use
from hosts.agent.plans import gpu_lock
from hosts.agent.rig import Books, Rig
from hosts.protocol.checkup import Check

log = logging.getLogger(__name__)

_KEY = "divisions"
_LEFT_OVERS = "left-over-divisions"
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


def give_up_division(books: Books, address: str) -> None:
    """It failed. What was made of it all the same is nobody's, and is to be taken away."""
    with books.journal.transaction():
        forget_division(books, address)
        _write_left_overs(books, {*left_overs(books), address})


def left_overs(books: Books) -> tuple[str, ...]:
    """Cards of which a division failed, until they are seen to be whole."""
    with books.journal.transaction():
        text = books.journal.recall(_LEFT_OVERS)
    return () if text is None else msgspec.json.decode(text, type=tuple[str, ...])


def _write_left_overs(books: Books, addresses: Collection[str]) -> None:
    with books.journal.transaction():
        books.journal.remember(_LEFT_OVERS, msgspec.json.encode(sorted(addresses)).decode())


def look_at_divisions(rig: Rig) -> tuple[Check, ...]:
    """Make again what is gone, take away what is nobody's, tell where something else is found. A plan's card
    is that plan's business."""
    found = []
    for division in divisions(rig):
        lock = gpu_lock(division.address)
        if not any(lock in plan.locks for plan in rig.plans.open()):
            found += _look(rig, division)
    if left := left_overs(rig):
        used = cards_in_use(rig)
        found += [check for address in left if address not in used for check in _clear(rig, address, used)]
    return tuple(found)


def _clear(rig: Rig, address: str, used: set[str]) -> list[Check]:
    """Unless the card was divided again since, or one of them is in somebody's hands."""
    there: tuple[Slice, ...] = ()
    try:
        if division_of(rig, address) is None:
            card = rig.bus.card(address)
            there = rig.bus.slices(card)
            if users := _users(rig, there):
                return [_told_left(address, there, f"{', '.join(users)} runs with one of them.")]
            if held := used.intersection(each.address for each in there):
                return [_told_left(address, there, f"{', '.join(sorted(held))} is in use.")]
            rig.bus.undivide(card)
    except CardMissing:
        log.warning("%s, of which a division failed, is gone from the bus", address)
    except BusError as error:
        return [_told_left(address, there, str(error))]
    _write_left_overs(rig, {*left_overs(rig)} - {address})
    return [_told_of(address, "removed", "warn", there)] if there else []


def _users(rig: Rig, slices: Collection[Slice]) -> list[str]:
    addresses = {each.address for each in slices}
    machines = (facts for facts in rig.hypervisor.machines() if facts.is_active)
    return [facts.name for facts in machines if addresses & facts.pci_addresses]


def _told_left(address: str, there: Sequence[Slice], reason: str) -> Check:
    return _told_of(address, "left", "fail", there, reason=reason)


def _told_of(
    address: str, outcome: str, verdict: Literal["warn", "fail"], there: Sequence[Slice], **facts: str
) -> Check:
    told = {"count": str(len(there)), "slices": ", ".join(each.address for each in there), **facts}
    log.warning("Slices left over on %s: %s %s", address, outcome, told)
    read = seen("left-over-slices", address, told)
    return verdicts.found(verdict, "left-over-slices", outcome, read, subject=address, **told)


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
