"""Which processes hold a card open: unbinding or resetting under them hangs the kernel or harms a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from hosts.agent.pci import PciFunction, read_text


def holders(root: Path, functions: Iterable[PciFunction]) -> tuple[str, ...]:
    """Processes, as "name (pid)", that have a device node of these functions, or their VFIO group, open."""
    return _who_has(root, _node_test(list(functions)))


def group_holders(root: Path, functions: Iterable[PciFunction]) -> tuple[str, ...]:
    """Those alone that have the VFIO group of one of these functions open."""
    return _who_has(root, _groups(functions).__contains__)


def _who_has(root: Path, is_ours: Callable[[str], bool]) -> tuple[str, ...]:
    found = {_process(process) for process, target in _open_devices(root) if is_ours(target)}
    return tuple(sorted(found))


def _groups(functions: Iterable[PciFunction]) -> set[str]:
    return {f"vfio/{function.group}" for function in functions if function.group is not None}


def _node_test(functions: list[PciFunction]) -> Callable[[str], bool]:
    """Whether a path below /dev belongs to one of the functions.

    NVIDIA's nodes do not tell which card they are for: with its driver bound, any of them counts.
    """
    nodes = _groups(functions).union(*(function.device_nodes() for function in functions))
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
