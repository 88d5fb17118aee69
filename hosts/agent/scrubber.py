"""What a scrubber is: one way to clear a card's memory, behind one small interface.

A scrubber says what it did. What it says is recorded, and believed only on hardware that it is proven on, and
only as far as the host's own canaries and reading agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from hosts.agent.bus import Card, PciBus
from hosts.protocol.evidence import Coverage, ResetRecord

# Takes done and total, in bytes.
Progress = Callable[[int, int], None]


def unheard(_done: int, _total: int) -> None:
    """Progress that nobody asks for."""


Kind = Literal["overwrite", "claim"]


class ScrubFailed(Exception):
    """The scrubber could not do its work on this card; the scrub fails, and its record says why."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a scrubber did, in bytes. `coverage` is of its own reading; `facts` are versions and rates."""

    reached_bytes: int
    written_bytes: int = 0
    read_back_bytes: int = 0
    mismatches: int = 0
    coverage: Coverage = "none"
    pattern: str = ""
    facts: dict[str, str] = {}


@dataclass(frozen=True)
class Workplace:
    """What one scrubber works on, and with. `climb` resets the card, or raises BusError."""

    bus: PciBus
    card: Card
    progress: Progress
    climb: Callable[[], ResetRecord]
    resets: list[ResetRecord] = field(default_factory=list)

    def reset(self) -> None:
        """Climb the card's reset ladder; the scrub's record will tell of it."""
        self.resets.append(self.climb())


class Scrubber(Protocol):
    """One way to clear a card's memory.

    `kind` is `overwrite` for one that writes, `claim` for one that asks somebody else. `proven_on` are
    patterns of PCI ids, such as 1234:*: hardware on which it was shown to do what it says.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def proven_on(self) -> tuple[str, ...]: ...

    def run(self, place: Workplace) -> Outcome:
        """Clear all it reaches, ending with zeros. ScrubFailed or BusError if that is not possible."""
