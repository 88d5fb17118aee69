"""What the last comparison found to be otherwise than it should be, as the journal keeps it to be told."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hosts.agent.boot import BOOT_ID
from hosts.agent.doctor.verdicts import Read, failed
from hosts.agent.pci import DEVICES
from hosts.agent.rig import Books
from hosts.protocol.checkup import Check

KEPT_AT_MOST = 100
# Where each kind of difference is seen.
_SEEN_IN = {
    "stray-machine": "libvirt",
    "stray-scrub-machine": "libvirt",
    "stray-disk": "machines_directory",
    "stray-network": "libvirt",
    "packet-filter": "nft list table inet leasehold",
    "lost-machine": "libvirt",
    "foreign-use": "libvirt",
    "host-use": f"/{DEVICES}/{{subject}}/driver",
    "restarted": str(BOOT_ID),
    "came-back": f"/{DEVICES}/{{subject}}",
    "unexplained": "the journal",
    "divided-card": f"/{DEVICES}/{{subject}}",
    "left-over-slices": f"/{DEVICES}/{{subject}}",
    "hang": "/run/leasehold-hanging-cards",
}
_KEY = "differences"
_CHECKS = msgspec.json.Decoder(tuple[Check, ...])


def seen(code: str, subject: str, facts: Mapping[str, object]) -> Read:
    """What was read where a difference shows."""
    told = ", ".join(f"{name}: {fact}" for name, fact in facts.items() if name != "reason")
    return _SEEN_IN[code].format(subject=subject), told or subject or "not as it was written"


def hang_of(address: str) -> Check:
    """The kernel hangs in the card, and nothing touches it."""
    return failed("hang", "hangs", seen("hang", address, {}), subject=address)


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
