"""Which GPUs of one host serve a lease: pure choice over those that are free throughout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from leasing.openings.spans import Span


@dataclass(frozen=True)
class FreeGpu:
    """A GPU that is free in `gap`, which the lease lies in. `ready` means that it is clean now."""

    gpu_id: UUID
    numa_node: int
    ready: bool
    gap: Span


def choose_gpus(
    free: Iterable[FreeGpu], *, count: int, one_node: bool, want_ready: bool
) -> list[FreeGpu] | None:
    """`count` GPUs, or None.

    Those of one NUMA node are preferred, or required with `one_node`, and of several nodes the one with the
    fewest free. In it those whose gap is the shortest: long ones are left to those who need them. With
    `want_ready`, GPUs that are clean now come before everything else: the lease begins at once.
    """
    nodes: dict[int, list[FreeGpu]] = defaultdict(list)
    for gpu in free:
        nodes[gpu.numa_node].append(gpu)
    groups = list(nodes.values())
    if not one_node:
        groups.append([gpu for members in groups for gpu in members])
    choices = [_pick(members, count, want_ready) for members in groups if len(members) >= count]
    sizes = [len(members) for members in groups if len(members) >= count]
    ranked = [
        (
            want_ready and sum(not gpu.ready for gpu in chosen),
            size,
            sorted(gpu.gpu_id for gpu in chosen),
            chosen,
        )
        for chosen, size in zip(choices, sizes, strict=True)
    ]
    return min(ranked, key=lambda one: one[:3])[-1] if ranked else None


def _pick(members: list[FreeGpu], count: int, want_ready: bool) -> list[FreeGpu]:
    def order(gpu: FreeGpu) -> tuple[bool, int, UUID]:
        return want_ready and not gpu.ready, gpu.gap.ends - gpu.gap.starts, gpu.gpu_id

    return sorted(members, key=order)[:count]
