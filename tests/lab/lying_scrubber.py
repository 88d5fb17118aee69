"""A scrubber that claims what it has not done. It is installed on the lab's hypervisor, and nowhere else."""

from __future__ import annotations

from hosts.agent.bar import BarScrubber
from hosts.agent.bus import MemoryWindow
from hosts.agent.scrub import Filled, Progress


class LyingScrubber(BarScrubber):
    """Does nothing, and says that all of it was overwritten and read back."""

    name = "lying"

    def fill(self, window: MemoryWindow, progress: Progress) -> Filled:
        progress(2 * window.size, 2 * window.size)
        return Filled(
            written_bytes=window.size, read_back_bytes=2 * window.size, mismatches=0, pattern="a5, then 00"
        )
