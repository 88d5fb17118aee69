"""Holds: placing, moving, shrinking, growing. The database refuses any two that overlap on one GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils.translation import gettext as _

from hosts.models import Gpu
from leasing.errors import NothingFree
from leasing.extras import PLAIN, Extras, extras_of, nothing_with
from leasing.models import Block, Flavor, Hold, Lease
from leasing.openings.search import Pool, lock_tightest_block, tightest_block
from leasing.openings.spans import Span, micros
from leasing.openings.upkeep import (
    GpuTime,
    closures_of,
    is_kept,
    lock_blocks,
    note_freed_extras,
    noting_block,
    read,
    refresh,
    span_of,
    write_taken,
)
from leasing.placement import FreeGpu, choose_gpus
from leasing.prepared import Change, inserting
from leasing.readiness import seen_ready

OVERLAP = "leasing_hold_no_overlap"
_INSTANT = timedelta(seconds=1)
_HELD = ("lease_id", "gpu_id", "starts_at", "ends_at")


# What is written at once with the holds of these GPUs, and before them.
Writing = Callable[[list[UUID]], Sequence[Change]]


def _nothing_more(gpus: list[UUID]) -> Sequence[Change]:
    return ()


class LineFirst(Exception):
    """Something of the block, which is locked, came free and has not been shown to those who wait."""

    def __init__(self, block: Block) -> None:
        super().__init__(str(block))
        self.block = block


def window(
    flavor: Flavor, starts_at: datetime, ends_at: datetime, *, now: datetime
) -> tuple[datetime, datetime]:
    """The lease's window with the model's lead before it (never in the past) and its turnaround after it."""
    lead = timedelta(seconds=flavor.model.lead_seconds)
    turnaround = timedelta(seconds=flavor.model.turnaround_seconds)
    return max(now, starts_at - lead), ends_at + turnaround


def place(
    lease: Lease,
    *,
    now: datetime,
    only_ready: bool = False,
    avoid: frozenset[UUID] = frozenset(),
    after_line: bool = False,
    writing: Writing = _nothing_more,
) -> list[UUID]:
    """Hold GPUs for the lease, on the block whose opening has the fewest GPUs, and return them.

    Raises NothingFree: whoever goes on after that calls it in a transaction of its own, or a savepoint. The
    block is locked before it is looked at: what somebody else took meanwhile is seen, and the next one is
    tried. With `after_line`, nothing is placed on a block of which those who wait must be shown something
    first; this raises LineFirst. `writing` says what is written together with the holds, such as the lease.
    """
    starts_at, ends_at = window(lease.flavor, lease.starts_at, lease.ends_at, now=now)
    span, pool, seen = span_of(starts_at, ends_at), pool_for(lease), set[int]()
    fallback: _Choice | None = None
    while span.starts < span.ends and (block := lock_tightest_block(pool, *span, without=seen)) is not None:
        seen.add(block.pk)
        if after_line and block.freed_from is not None:
            raise LineFirst(block)
        choice = _choose(lease.flavor, block, span, avoid=avoid, only_ready=only_ready, now=now)
        if choice is None:
            continue
        if starts_at > now or choice.unready == 0:
            return _hold(lease, choice, starts_at, ends_at, writing)
        fallback = min(fallback or choice, choice, key=lambda one: one.unready)
    if fallback is None:
        raise _nothing_free(lease)
    return _hold(lease, fallback, starts_at, ends_at, writing)


def place_on(lease: Lease, block: Block, *, now: datetime) -> None:
    """Hold GPUs of this block, which the caller has locked, for the lease. Raises NothingFree."""
    starts_at, ends_at = window(lease.flavor, lease.starts_at, lease.ends_at, now=now)
    span = span_of(starts_at, ends_at)
    choice = _choose(lease.flavor, block, span, avoid=frozenset(), only_ready=False, now=now)
    if choice is None:
        raise _nothing_free(lease)
    _hold(lease, choice, starts_at, ends_at)


def lock_blocks_for(leases: Iterable[Lease], *, now: datetime) -> None:
    """Lock the blocks that these leases would go to as things are, before they are placed."""
    found = (_tightest_for(lease, now=now) for lease in leases)
    lock_blocks({block_id for block_id in found if block_id is not None})


def _tightest_for(lease: Lease, *, now: datetime) -> int | None:
    span = span_of(*window(lease.flavor, lease.starts_at, lease.ends_at, now=now))
    if span.starts >= span.ends:
        return None
    return tightest_block(pool_for(lease), *span)


def lock_blocks_of(leases: Iterable[Lease]) -> None:
    """Lock the blocks that these leases have GPUs of, or note on what they free, before they are given up."""
    leases = list(leases)
    held = Block.objects.filter(host__gpus__holds__lease__in=leases, model=F("host__gpus__model"))
    found = set(held.values_list("pk", flat=True))
    for lease in leases:
        if lease.with_home and not lease.holds.exists():
            found.update(noting_block(lease).values_list("pk", flat=True))
    lock_blocks(found)


def pool_of(flavor: Flavor, extras: Extras = PLAIN) -> Pool:
    """Where a flavor's leases that are to have all this may go."""
    one_node = flavor.numa == Flavor.Numa.REQUIRED
    return Pool(flavor.model_id, flavor.gpu_count, one_node=one_node, within=extras.reach(flavor))


def pool_for(lease: Lease) -> Pool:
    """Where a lease may go."""
    return pool_of(lease.flavor, extras_of(lease))


def drop(lease: Lease) -> None:
    """The lease needs its GPUs no more, and never had them."""
    held = list(lease.holds.all())
    lease.holds.all().delete()
    for hold in held:
        refresh([hold.gpu_id], hold.starts_at, hold.ends_at)
    if not held:
        note_freed_extras(lease)


def shrink(lease: Lease, *, now: datetime) -> None:
    """The lease stopped: what lies beyond the turnaround, which begins now, is free at once."""
    for hold in lease.holds.select_related("gpu__model"):
        _end_by(hold, now + timedelta(seconds=hold.gpu.model.turnaround_seconds))


def settle(gpu: Gpu, *, now: datetime) -> None:
    """The GPU is clean, or out of service: its last tenure's hold ends now."""
    for hold in Hold.objects.filter(gpu=gpu, tenure=gpu.tenure, ends_at__gt=now):
        _end_by(hold, now)


def shorten(lease: Lease, ends_at: datetime) -> None:
    """Hold the lease's GPUs only until an earlier end and the turnaround after it."""
    held = list(lease.holds.select_related("gpu__model"))
    for hold in held:
        _end_by(hold, ends_at + timedelta(seconds=hold.gpu.model.turnaround_seconds))
    if not held:
        note_freed_extras(lease)


def lengthen(lease: Lease, ends_at: datetime) -> None:
    """Hold the lease's GPUs, and their turnaround, until a later end. Raises NothingFree.

    A closure that somebody else is just writing is waited for: it shows whom it affects, and nobody else. So
    is what is just being kept for somebody: what is in its way only becomes less.
    """
    lock_blocks_of([lease])
    for hold in lease.holds.select_related("gpu__model").order_by("gpu_id"):
        until = ends_at + timedelta(seconds=hold.gpu.model.turnaround_seconds)
        if until > hold.ends_at:
            if closures_of(hold.gpu).filter(starts_at__lt=until).exclude(ends_at__lte=hold.ends_at).exists():
                raise NothingFree(_("Its GPU is closed for maintenance then."), hint=_("Try again."))
            if is_kept(hold.gpu, hold.ends_at, until):
                raise NothingFree(_("Its GPU is kept for somebody in line then."), hint=_("Try again."))
            hold_until(hold, until)


def delay(lease: Lease, gpu_ids: Iterable[UUID], until: datetime | None) -> None:
    """The lease may have these GPUs from then on only, or never; it keeps its window, and its other GPUs."""
    for hold in lease.holds.filter(gpu__in=gpu_ids).order_by("gpu_id"):
        began = hold.starts_at
        if until is not None and until < hold.ends_at:
            hold.starts_at = until
            hold.save(update_fields=["starts_at"])
        else:
            hold.delete()
        refresh([hold.gpu_id], began, hold.ends_at)


def _end_by(hold: Hold, ends_at: datetime) -> None:
    ends_at = max(ends_at, hold.starts_at + _INSTANT)
    if ends_at < hold.ends_at:
        freed_until, hold.ends_at = hold.ends_at, ends_at
        hold.save(update_fields=["ends_at"])
        refresh([hold.gpu_id], ends_at, freed_until)


def hold_until(hold: Hold, until: datetime) -> None:
    free_from, hold.ends_at = hold.ends_at, until
    with overlap_is_nothing_free():
        hold.save(update_fields=["ends_at"])
    refresh([hold.gpu_id], free_from, until)


@dataclass(frozen=True)
class _Choice:
    """GPUs of a locked block; `unready` counts those that could not be handed over now."""

    block: Block
    times: list[GpuTime]
    chosen: list[FreeGpu]
    unready: int


def _choose(
    flavor: Flavor, block: Block, span: Span, *, avoid: frozenset[UUID], only_ready: bool, now: datetime
) -> _Choice | None:
    times = read(block, span)
    chosen = pick_gpus(flavor, times, span, avoid=avoid, only_ready=only_ready, now=now)
    return None if chosen is None else _Choice(block, times, chosen, sum(not gpu.ready for gpu in chosen))


def pick_gpus(
    flavor: Flavor,
    times: list[GpuTime],
    span: Span,
    *,
    avoid: frozenset[UUID] = frozenset(),
    only_ready: bool = False,
    now: datetime,
) -> list[FreeGpu] | None:
    """Which of a block's GPUs, with these times, would serve the flavor throughout the span."""
    free = [
        FreeGpu(
            gpu_id=time.gpu.pk,
            numa_node=time.gpu.numa_node,
            ready=seen_ready(time.gpu.state, time.gpu.last_seen_at, now=now),
            gap=time.gap_around(span),
        )
        for time in times
        if time.is_free(span) and time.gpu.pk not in avoid
    ]
    return choose_gpus(
        [gpu for gpu in free if gpu.ready or not only_ready],
        count=flavor.gpu_count,
        one_node=flavor.numa == Flavor.Numa.REQUIRED,
        want_ready=span.starts <= micros(now),
    )


def _nothing_free(lease: Lease) -> NothingFree:
    if extras := extras_of(lease):
        return nothing_with(extras, lease.flavor)
    return NothingFree(
        _("No %(flavor)s is free from then until then.") % {"flavor": lease.flavor.name},
        hint=_("Somebody else has it. Choose another time, a shorter one, or another workstation."),
    )


def _hold(
    lease: Lease,
    choice: _Choice,
    starts_at: datetime,
    ends_at: datetime,
    writing: Writing = _nothing_more,
) -> list[UUID]:
    """In GPU order, so that two bookings never wait for each other; returns them by their addresses."""
    span = span_of(starts_at, ends_at)
    chosen = sorted(gpu.gpu_id for gpu in choice.chosen)
    holding = inserting(Hold, _HELD, [(lease.pk, gpu_id, starts_at, ends_at) for gpu_id in chosen])
    taken = [time for time in choice.times if time.gpu.pk in chosen]
    gpus = [time.gpu.pk for time in sorted(taken, key=lambda time: time.gpu.address)]
    with overlap_is_nothing_free():
        write_taken(choice.block, choice.times, taken, span, holding=[*writing(gpus), holding])
    return gpus


@contextmanager
def overlap_is_nothing_free() -> Iterator[None]:
    """The database refuses what a stale opening would let through; fsck says when one is."""
    try:
        with transaction.atomic(savepoint=False):
            yield
    except IntegrityError as error:
        if OVERLAP not in str(error):
            raise
        raise NothingFree(_("Somebody else has just taken it."), hint=_("Try again.")) from error
