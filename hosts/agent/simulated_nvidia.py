"""The registers of a simulated NVIDIA card: those that `nvidia` uses, behaving as their sources say."""

from __future__ import annotations

from hosts.agent import nvidia
from hosts.agent.memory import MappedWindow, OneByOne, check_range
from hosts.agent.nvidia import SIZE

DEAD = 0xBADF1100


class SimulatedRegisters(OneByOne):
    """Registers over a card's memory. What is not known here reads zero and takes no writes."""

    name = "bar"
    is_fast = True
    size = SIZE

    def __init__(
        self, memory: MappedWindow, *, boot_0: int, says_cleared: bool, is_dead: bool = False
    ) -> None:
        self._memory = memory
        self._values = {nvidia.BOOT_0: DEAD if is_dead else boot_0}
        where = nvidia.layout(boot_0)
        mebibytes = memory.size // nvidia.MIB
        self._values[where.memory_size] = mebibytes if where.in_mib else mebibytes << 4
        self._values[where.cleared] = int(says_cleared)
        self._selector = where.window

    def read32(self, offset: int) -> int:
        check_range(offset, 4, SIZE)
        return self._values.get(offset, 0)

    def write32(self, offset: int, value: int) -> None:
        check_range(offset, 4, SIZE)
        if offset == self._selector:
            self._values[offset] = value

    def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
        self._memory.fill(self._shown(offset, length), length, pattern)

    def read(self, offset: int, length: int) -> bytes:
        return self._memory.read(self._shown(offset, length), length)

    def first_mismatch(self, offset: int, length: int, byte: int) -> int | None:
        shown = self._shown(offset, length)
        found = self._memory.first_mismatch(shown, length, byte)
        return None if found is None else found - shown + offset

    def _shown(self, offset: int, length: int) -> int:
        """Where in the memory the place in the window is."""
        check_range(offset - nvidia.WINDOW, length, nvidia.WINDOW_SIZE)
        return (self._values.get(self._selector, 0) << nvidia.WINDOW_STEP) + offset - nvidia.WINDOW
