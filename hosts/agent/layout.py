"""Where a host's processors, memory and huge pages are, read from `/sys`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hosts.agent.doctor.host_reader import ISOLATED_CPUS
from hosts.agent.doctor.reader import Reader

NODES = "sys/devices/system/node"
CPUS = "sys/devices/system/cpu"


@dataclass(frozen=True)
class Node:
    """A NUMA node. `pages` maps a size of huge pages, in KiB, to how many of them are reserved here."""

    number: int
    cpus: tuple[int, ...]
    memory_mib: int
    pages: Mapping[int, int]


@dataclass(frozen=True)
class Layout:
    """`cores` are sets of CPUs that are threads of one core. `isolated` are kept free by the kernel."""

    nodes: tuple[Node, ...]
    cores: tuple[frozenset[int], ...]
    isolated: frozenset[int] = frozenset()

    def node(self, number: int) -> Node | None:
        return next((node for node in self.nodes if node.number == number), None)

    @property
    def cpus(self) -> frozenset[int]:
        return frozenset(cpu for node in self.nodes for cpu in node.cpus)


def read_layout(reader: Reader) -> Layout:
    """What the kernel says now."""
    numbers = [int(found[1]) for name in reader.names(NODES) if (found := re.fullmatch(r"node(\d+)", name))]
    nodes = tuple(_node(reader, number) for number in sorted(numbers))
    cores = {_core(reader, cpu) for node in nodes for cpu in node.cpus}
    isolated = frozenset(parse_cpus(reader.text(ISOLATED_CPUS)))
    return Layout(nodes, tuple(sorted(cores, key=min)), isolated)


def parse_cpus(text: str) -> Iterator[int]:
    """The kernel's way to list CPUs: `0-3,8`."""
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        yield from range(int(first), int(last or first) + 1)


def _node(reader: Reader, number: int) -> Node:
    place = f"{NODES}/node{number}"
    total = re.search(r"MemTotal:\s*(\d+) kB", reader.text(f"{place}/meminfo"))
    return Node(
        number=number,
        cpus=tuple(parse_cpus(reader.text(f"{place}/cpulist"))),
        memory_mib=int(total[1]) // 1024 if total else 0,
        pages=dict(_pages(reader, f"{place}/hugepages")),
    )


def _pages(reader: Reader, place: str) -> Iterator[tuple[int, int]]:
    for name in reader.names(place):
        size = re.fullmatch(r"hugepages-(\d+)kB", name)
        count = int(reader.text(f"{place}/{name}/nr_hugepages") or "0")
        if size and count:
            yield int(size[1]), count


def _core(reader: Reader, cpu: int) -> frozenset[int]:
    siblings = reader.text(f"{CPUS}/cpu{cpu}/topology/thread_siblings_list")
    return frozenset(parse_cpus(siblings)) or frozenset({cpu})
