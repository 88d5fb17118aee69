"""Where on its host a machine runs: beside its GPUs, on processors and pages that no other machine has. Pure.

What cannot be had is left to the kernel: a machine runs slower there, but it runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hosts.agent.layout import Layout, Node


@dataclass(frozen=True)
class Placement:
    """Where it runs; nothing of it is said where nothing is known.

    Memory comes from `numa_node`, and if `strict` from nowhere else, in pages of `page_kib` unless that is 0.
    vCPU number i runs on `cpus[i]` alone; without `cpus` all run on the node's `shared_cpus`. What else the
    hypervisor does for it runs on `emulator_cpus`. `threads` of the guest's CPUs are one core.
    """

    numa_node: int | None = None
    strict: bool = True
    page_kib: int = 0
    cpus: tuple[int, ...] = ()
    shared_cpus: tuple[int, ...] = ()
    emulator_cpus: tuple[int, ...] = ()
    threads: int = 1


ANYWHERE = Placement()


@dataclass(frozen=True)
class Occupied:
    """What the definition of another machine has taken: CPUs alone for it, and memory of these nodes."""

    cpus: frozenset[int] = frozenset()
    nodes: frozenset[int] = frozenset()
    memory_mib: int = 0
    page_kib: int = 0


NOTHING = Occupied()


def place(
    layout: Layout, others: Collection[Occupied], *, gpu_nodes: Collection[int], vcpus: int, memory_mib: int
) -> Placement:
    """Beside GPUs that are all on one node that is known (-1 is not); otherwise wherever the kernel likes."""
    numbers = set(gpu_nodes)
    node = layout.node(numbers.pop()) if len(numbers) == 1 else None
    if node is None or not node.cpus:
        return ANYWHERE
    taken = frozenset(cpu for other in others for cpu in other.cpus)
    cores = _cores(layout, node, taken, vcpus)
    cpus = tuple(cpu for core in cores for cpu in sorted(core))[:vcpus]
    page_kib = _page_size(node, others, memory_mib)
    return Placement(
        numa_node=node.number,
        strict=bool(page_kib) or memory_mib <= node.memory_mib - _memory_taken(node, others),
        page_kib=page_kib,
        cpus=cpus,
        shared_cpus=() if cpus else _shared_cpus(layout, node, taken),
        emulator_cpus=_emulator_cpus(layout, node, taken | set(cpus)) if cpus else (),
        threads=_threads(cores, vcpus),
    )


def _cores(layout: Layout, node: Node, taken: frozenset[int], vcpus: int) -> list[frozenset[int]]:
    """Free cores with CPUs for all, none if they do not suffice: isolated ones, where the host has any.

    Cores that others have a thread of come after whole ones, the node's first core last: the host uses it.
    """
    allowed = frozenset(node.cpus) & (layout.isolated or frozenset(node.cpus))
    free = [(core, core & allowed - taken) for core in layout.cores]
    first = min(node.cpus)
    ordered = sorted(free, key=lambda each: (first in each[0], each[0] != each[1], min(each[0])))
    chosen: list[frozenset[int]] = []
    for _core, left in ordered:
        if left and sum(map(len, chosen)) < vcpus:
            chosen.append(left)
    return chosen if sum(map(len, chosen)) >= vcpus else []


def _threads(cores: list[frozenset[int]], vcpus: int) -> int:
    """As many as each core has, if the guest gets whole ones and all are alike."""
    sizes = {len(core) for core in cores}
    whole = len(sizes) == 1 and sum(map(len, cores)) == vcpus
    return sizes.pop() if whole else 1


def _shared_cpus(layout: Layout, node: Node, taken: frozenset[int]) -> tuple[int, ...]:
    """The scheduler does not spread threads over isolated CPUs, and other machines' stay theirs."""
    return tuple(sorted(set(node.cpus) - taken - layout.isolated)) or node.cpus


def _emulator_cpus(layout: Layout, node: Node, taken: frozenset[int]) -> tuple[int, ...]:
    """CPUs that belong to no machine: of the node, else of the host, else the node's own."""
    host = layout.cpus - layout.isolated - taken
    return tuple(sorted(host & set(node.cpus) or host)) or node.cpus


def _page_size(node: Node, others: Collection[Occupied], memory_mib: int) -> int:
    """The largest huge pages of which the node has enough left, in KiB; 0 for ordinary ones."""
    memory_kib = memory_mib * 1024
    for size, count in sorted(node.pages.items(), reverse=True):
        left = count - sum(_pages_taken(node, others, size))
        if memory_kib % size == 0 and memory_kib // size <= left:
            return size
    return 0


def _pages_taken(node: Node, others: Collection[Occupied], size: int) -> Iterator[int]:
    """Of a machine on several nodes, or on none that is said, all pages may be here."""
    for other in others:
        if other.page_kib == size and node.number in (other.nodes or {node.number}):
            yield other.memory_mib * 1024 // size


def _memory_taken(node: Node, others: Collection[Occupied]) -> int:
    """MiB that huge pages and other machines have of the node."""
    pages = sum(size * count for size, count in node.pages.items()) // 1024
    return pages + sum(
        other.memory_mib for other in others if not other.page_kib and node.number in other.nodes
    )
