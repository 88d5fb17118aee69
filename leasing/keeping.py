"""For the first in line, the last time that would still do is kept.

Large requests would starve if everything that comes free bit by bit went to smaller ones at once. So for
the first of each line GPUs are *kept* during the last window that still meets its deadline: those that have
the fewest bookings in the way. These bookings stay and may be used to their end, but nobody books anything
else there. When the last of them is gone the window is free for this entry alone, and is offered to it. Until
it begins everybody may use the GPUs; when it begins the entry has an offer, or lapses.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Q

from hosts.models import Gpu
from leasing import holds
from leasing.extras import extras_of_entry
from leasing.lines import fewest_in_the_way
from leasing.locking import locked
from leasing.models import Block, Closure, Flavor, Hold, WaitlistEntry
from leasing.openings.upkeep import read, span_of, write
from leasing.states.gpu import BOOKABLE
from leasing.wishes import impossible_because, line, wishes

# A block and one of its NUMA nodes, or NO_NODE where the node does not matter.
Group = tuple[int, int]
NO_NODE = -1


def lines_without() -> list[int]:
    """The GPU models for which somebody waits and nothing is kept."""
    kept = Block.objects.filter(kept_for__isnull=False).values("model")
    waiting = line().exclude(flavor__model__in=kept).order_by()
    return list(waiting.values_list("flavor__model", flat=True).distinct())


def kept_in_vain(*, now: datetime) -> list[Block]:
    """Blocks that are kept for somebody who waits no more, or whom they cannot serve any more."""
    kept = Block.objects.filter(kept_for__isnull=False).select_related(
        "kept_for__flavor__model",
        "kept_for__image",
        "kept_for__owner",
        "kept_for__tenant",
        "kept_for__snapshot",
    )
    return [block for block in kept.order_by("id") if _in_vain(block, now=now)]


def keep_for_first(model_id: int, *, now: datetime) -> None:
    """Keep GPUs for the first of the line for whom it is possible."""
    too_many: dict[str, int] = {}
    for entry, wish in wishes(line(model_id).filter(last_start_at__gt=now), now=now):
        flavor = entry.flavor
        if wish.next_start(wish.last_start) is None or impossible_because(entry):
            continue
        if flavor.gpu_count >= too_many.get(flavor.numa, flavor.gpu_count + 1):
            continue
        found = fewest_in_the_way(_groups(entry, now=now), flavor.gpu_count)
        if found is not None:
            (block_id, _node), gpu_ids = found
            _keep(entry, block_id, gpu_ids, now=now)
            return
        if not extras_of_entry(entry):
            too_many[flavor.numa] = flavor.gpu_count


def in_the_way(entry: WaitlistEntry) -> int:
    """How many bookings are in the way of what is kept for the entry."""
    if entry.kept_from is None or entry.kept_until is None:
        return 0
    held = Hold.objects.filter(starts_at__lt=entry.kept_until, ends_at__gt=entry.kept_from)
    return held.filter(gpu__in=entry.kept_gpus.all()).values("lease").distinct().count()


def _groups(entry: WaitlistEntry, *, now: datetime) -> dict[Group, dict[UUID, int]]:
    """The GPUs that could be kept for the entry, and how many bookings are in the way of each."""
    starts_at, ends_at = holds.window(entry.flavor, entry.last_start_at, entry.deadline_at, now=now)
    model_id = entry.flavor.model_id
    overlapping = Q(starts_at__lt=ends_at) & (Q(ends_at=None) | Q(ends_at__gt=starts_at))
    closures = Closure.objects.filter(overlapping)
    closed = set(closures.filter(gpu=None).values_list("host_id", flat=True))
    shut = set(closures.filter(gpu__isnull=False).values_list("gpu_id", flat=True))
    blocks = Block.objects.filter(model=model_id, kept_for=None, gpus__gte=entry.flavor.gpu_count)
    if (reach := extras_of_entry(entry).reach(entry.flavor)) is not None:
        blocks = blocks.filter(pk__in=reach)
    block_of = dict(blocks.values_list("host_id", "pk"))
    held = Hold.objects.filter(overlapping, gpu__model=model_id).order_by()
    counts = dict(held.values_list("gpu_id").annotate(Count("pk")))
    groups: dict[Group, dict[UUID, int]] = defaultdict(dict)
    gpus = Gpu.objects.filter(model=model_id, state__in=BOOKABLE).values_list("pk", "host_id", "numa_node")
    for gpu_id, host_id, node in gpus:
        if host_id in block_of and host_id not in closed and gpu_id not in shut:
            one_node = entry.flavor.numa == Flavor.Numa.REQUIRED
            groups[block_of[host_id], node if one_node else NO_NODE][gpu_id] = counts.get(gpu_id, 0)
    return groups


def _keep(entry: WaitlistEntry, block_id: int, gpu_ids: list[UUID], *, now: datetime) -> None:
    """Unless the block is kept for somebody, or the entry waits no more."""
    starts_at, ends_at = holds.window(entry.flavor, entry.last_start_at, entry.deadline_at, now=now)
    with transaction.atomic():
        block = locked(Block.objects.filter(pk=block_id, kept_for=None)).first()
        same = WaitlistEntry.objects.filter(pk=entry.pk, closed_at=None, last_start_at=entry.last_start_at)
        waiting = locked(same).first()
        if block is None or waiting is None:
            return
        waiting.kept_from, waiting.kept_until = starts_at, ends_at
        waiting.save(update_fields=["kept_from", "kept_until"])
        waiting.kept_gpus.set(Gpu.objects.filter(pk__in=gpu_ids))
        block.kept_for = waiting
        block.save(update_fields=["kept_for"])
        span = span_of(starts_at, ends_at)
        write(block, read(block, span), span)


def _in_vain(block: Block, *, now: datetime) -> bool:
    assert block.kept_for is not None  # noqa: S101 - asked for by kept_in_vain
    ((entry, wish),) = wishes([block.kept_for], now=now)
    if entry.closed_at is not None or wish.next_start(wish.last_start) is None:
        return True
    reach = extras_of_entry(entry).reach(entry.flavor)
    if reach is not None and block.pk not in reach:
        return True
    gpus = entry.kept_gpus.all()
    overlapping = Q(starts_at__lt=entry.kept_until) & (Q(ends_at=None) | Q(ends_at__gt=entry.kept_from))
    closed = Closure.objects.filter(overlapping, Q(gpu=None) | Q(gpu__in=gpus), host=block.host_id)
    broken = gpus.exclude(state__in=BOOKABLE)
    return closed.exists() or broken.exists() or bool(impossible_because(entry))
