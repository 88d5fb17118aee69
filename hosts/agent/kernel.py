"""What only a kernel can do to PCI devices, with deadlines; replaced where there are files but no kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hosts.agent import child

VFIO_DRIVER = "vfio-pci"
MODPROBE = "/sbin/modprobe"
# Which has to be used for that, its maker says, and nothing else.
SRIOV_MANAGE = "/usr/lib/nvidia/sriov-manage"
SWITCH_SECONDS = 120.0
LOAD_SECONDS = 30.0
LOOK_SECONDS = 30.0
Writes = Sequence[tuple[Path, str]]


class Kernel(Protocol):
    """Errors as in `child`: OSError, TimeoutError, ChildStuckError."""

    def write(self, writes: Writes, *, seconds: float) -> None: ...

    def hot_reset(self, group: Path, address: str, *, seconds: float) -> None: ...

    def is_viable(self, group: Path) -> bool: ...

    def decode_memory(self, config: Path) -> None: ...

    def load_vfio(self) -> None: ...

    def switch_nvidia_functions(self, address: str, *, on: bool) -> None: ...


class LinuxKernel:
    """The running kernel; calls that may hang go through a child process."""

    def write(self, writes: Writes, *, seconds: float) -> None:
        child.write_in_child([(str(path), text) for path, text in writes], seconds=seconds)

    def hot_reset(self, group: Path, address: str, *, seconds: float) -> None:
        child.hot_reset_in_child(group, address, seconds=seconds)

    def is_viable(self, group: Path) -> bool:
        return child.is_viable_in_child(group, seconds=LOOK_SECONDS)

    def decode_memory(self, config: Path) -> None:
        child.decode_memory_in_child(config, seconds=LOOK_SECONDS)

    def load_vfio(self) -> None:
        child.run_in_child([MODPROBE, VFIO_DRIVER], seconds=LOAD_SECONDS)

    def switch_nvidia_functions(self, address: str, *, on: bool) -> None:
        child.run_in_child([SRIOV_MANAGE, "-e" if on else "-d", address], seconds=SWITCH_SECONDS)
