"""A scrubber that claims what it has not done. It is installed on the lab's hypervisor, and nowhere else."""

from __future__ import annotations

from hosts.agent.bar import BarScrubber
from hosts.agent.scrubber import Outcome, Workplace


class LyingScrubber(BarScrubber):
    """Does nothing, and says that all of it was overwritten and read back."""

    name = "lying"

    def run(self, place: Workplace) -> Outcome:
        size = place.card.memory_bytes
        place.progress(size, size)
        return Outcome(
            reached_bytes=size, written_bytes=size, read_back_bytes=size, coverage="full", pattern="00"
        )
