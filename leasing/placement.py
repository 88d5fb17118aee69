"""Which GPUs serve a booking: pure choice over what is free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, order=True)
class FreeGpu:
    """A GPU that has no other hold in the window. `ready` means that it is clean now."""

    gpu_id: UUID
    host_id: UUID
    numa_node: int
    ready: bool


def choose_gpus(
    free: Iterable[FreeGpu], *, count: int, one_node: bool, want_ready: bool
) -> list[FreeGpu] | None:
    """`count` GPUs of one host, or None.

    Best fit: among the groups that suffice, the one that leaves the fewest free keeps large blocks whole.
    A single NUMA node is preferred, or required with `one_node`. With `want_ready`, GPUs that are clean now
    come before everything else: the lease begins at once.
    """
    nodes: dict[tuple[UUID, int], list[FreeGpu]] = defaultdict(list)
    hosts: dict[UUID, list[FreeGpu]] = defaultdict(list)
    for gpu in free:
        nodes[gpu.host_id, gpu.numa_node].append(gpu)
        hosts[gpu.host_id].append(gpu)
    groups = [(0, len(hosts[host]), members) for (host, _), members in nodes.items()]
    if not one_node:
        groups += [(1, len(members), members) for members in hosts.values()]
    choices = [
        (_unready(chosen) if want_ready else 0, spread, left, len(members), _ids(chosen), chosen)
        for spread, left, members in groups
        if len(chosen := _pick(members, count, want_ready)) == count
    ]
    return min(choices)[-1] if choices else None


def _pick(members: list[FreeGpu], count: int, want_ready: bool) -> list[FreeGpu]:
    ordered = sorted(members, key=lambda gpu: (want_ready and not gpu.ready, gpu.gpu_id))
    return ordered[:count]


def _unready(chosen: list[FreeGpu]) -> int:
    return sum(not gpu.ready for gpu in chosen)


def _ids(chosen: list[FreeGpu]) -> list[UUID]:
    return [gpu.gpu_id for gpu in chosen]
