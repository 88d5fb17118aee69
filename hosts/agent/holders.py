"""Which processes hold a card open: unbinding or resetting under them hangs the kernel or harms a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from hosts.agent.pci import PciFunction, read_text


def holders(root: Path, functions: Iterable[PciFunction]) -> tuple[str, ...]:
    """Processes, as "name (pid)", that have a device node of these functions, or their VFIO group, open."""
    is_ours = _node_test(list(functions))
    found = {_process(process) for process, target in _open_devices(root) if is_ours(target)}
    return tuple(sorted(found))


def _node_test(functions: list[PciFunction]) -> Callable[[str], bool]:
    """Whether a path below /dev belongs to one of the functions.

    NVIDIA's nodes do not tell which card they are for: with its driver bound, any of them counts.
    """
    nodes = {f"vfio/{function.group}" for function in functions if function.group is not None}
    nodes.update(node for function in functions for node in function.device_nodes())
    nvidia = any(function.driver == "nvidia" for function in functions)
    return lambda node: node in nodes or (nvidia and node.startswith("nvidia"))


def _open_devices(root: Path) -> Iterator[tuple[Path, str]]:
    for process in root.glob("proc/[0-9]*"):
        for target in _open_files(process):
            if target.startswith("/dev/"):
                yield process, target.removeprefix("/dev/")


def _open_files(process: Path) -> set[str]:
    """Targets of its descriptors, without those that are closed while we look."""
    found = set()
    with suppress(OSError):
        for link in (process / "fd").iterdir():
            with suppress(OSError):
                found.add(str(link.readlink()))
    return found


def _process(directory: Path) -> str:
    return f"{read_text(directory / 'comm') or 'unknown'} ({directory.name})"
