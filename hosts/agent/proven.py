"""What a GPU was when it was proven clean, and whether it was left alone since.

What a scrub has proven holds for one boot of the host, and for as long as the card stays on the bus: nobody
knows what was done to it meanwhile.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from hosts.agent.records import GpuRecord
from hosts.agent.rig import Books, Rig

_BOOT = "this_boot"


class Proven(msgspec.Struct, frozen=True):
    """The boot and kernel under which a GPU was proven clean, and the card's coming onto the bus before."""

    boot: str
    kernel: str
    incarnation: str


def begin_boot(books: Books, boot_id: str) -> None:
    """From here on what is proven is proven in this boot."""
    with books.journal.transaction():
        books.journal.remember(_BOOT, boot_id)


def this_boot(books: Books) -> str:
    """The boot in which the worker runs."""
    with books.journal.transaction():
        return books.journal.recall(_BOOT) or ""


def remember_proven(books: Books, gpu_id: UUID, *, kernel: str, incarnation: str) -> None:
    """Inside the caller's transaction."""
    proven = Proven(this_boot(books), kernel, incarnation)
    books.journal.remember(_key(gpu_id), msgspec.json.encode(proven).decode())


def recall_proven(books: Books, gpu_id: UUID) -> Proven | None:
    """None if the previous version of this program has proven it clean, which did not remember when."""
    with books.journal.transaction():
        text = books.journal.recall(_key(gpu_id))
    return None if text is None else msgspec.json.decode(text, type=Proven)


def was_away(rig: Rig, gpu: GpuRecord) -> bool:
    """Whether the card was off the bus since it was proven clean."""
    proven = recall_proven(rig, gpu.gpu_id)
    return proven is not None and rig.bus.incarnation(gpu.address) not in ("", proven.incarnation)


def _key(gpu_id: UUID) -> str:
    return f"proven:{gpu_id}"
