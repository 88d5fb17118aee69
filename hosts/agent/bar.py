"""The scrubber that comes with Leasehold: it overwrites the card's memory through its memory BAR."""

from __future__ import annotations

from typing import Literal

from hosts.agent.scrubber import Outcome, ScrubFailed, Workplace

CHUNK = 256 * 1024 * 1024


class BarScrubber:
    """Writes zeros over all that the BAR shows, once.

    It need not read: the host plants canaries before, and reads everything afterwards. On AMD's and Intel's
    cards the BAR is the memory, as far as it reaches, but nobody has shown that yet.
    """

    name = "bar"
    version = "2"
    kind: Literal["overwrite"] = "overwrite"
    proven_on = ("1234:*",)

    def run(self, place: Workplace) -> Outcome:
        with place.bus.memory(place.card) as window:
            if window.name != "bar":
                raise ScrubFailed(
                    "The BAR of this card is not its memory, but goes through the GPU's own page tables."
                )
            size = window.size
            for offset in range(0, size, CHUNK):
                length = min(CHUNK, size - offset)
                window.fill(offset, length, 0)
                place.progress(offset + length, size)
        return Outcome(reached_bytes=size, written_bytes=size, pattern="00")
