"""Leases that have not begun go to other, equal GPUs: for better ones, or out of somebody's way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, QuerySet

from hosts.models import Gpu
from leasing import holds
from leasing.devices import require_free
from leasing.errors import NothingFree
from leasing.locking import locked
from leasing.models import Block, Hold, Lease
from leasing.openings.search import tightest_block
from leasing.openings.upkeep import give_up_kept, read, span_of
from leasing.readiness import is_ready
from leasing.states.gpu import GpuState
from leasing.states.lease import AHEAD, LeaseState
from leasing.timing import OVERRUN_STEP


def move(lease: Lease, *, now: datetime, only_ready: bool) -> bool:
    """Hold other, equal GPUs for a lease that has not started; False, unchanged, if none is free.

    What is kept for somebody who waits gives way if it must: it is a hope, and the lease is a promise. The
    caller has locked the lease: nobody else may give it holds, or take them away, meanwhile.
    """
    if _moved(lease, now=now, only_ready=only_ready):
        return True
    kept = Block.objects.filter(model=lease.flavor.model_id, kept_for__isnull=False)
    return kept.exists() and _moved(lease, now=now, only_ready=only_ready, instead_of=kept)


def _moved(
    lease: Lease, *, now: datetime, only_ready: bool, instead_of: QuerySet[Block] | None = None
) -> bool:
    try:
        with transaction.atomic():
            for block in locked(instead_of).order_by("id") if instead_of is not None else []:
                give_up_kept(block)
            avoid = frozenset(lease.holds.values_list("gpu_id", flat=True))
            _place_anew(lease, now=now, only_ready=only_ready, avoid=_unfit(avoid, now=now))
    except NothingFree:
        return False
    return True


def make_way(lease: Lease, gpu_ids: frozenset[UUID], *, now: datetime) -> bool:
    """Hold equal GPUs other than these for a lease that has not begun; False, unchanged, if none is free."""
    try:
        with transaction.atomic():
            _place_anew(lease, now=now, avoid=gpu_ids)
    except NothingFree:
        return False
    return True


def _place_anew(lease: Lease, **how: Any) -> None:
    """Somebody may have its devices by now, for a time in which it had no GPUs. Raises NothingFree."""
    holds.drop(lease)
    holds.place(lease, **how)
    require_free(lease)


def could_make_way(lease: Lease, gpu_ids: frozenset[UUID], *, now: datetime) -> bool:
    """Whether `make_way` would find GPUs. Changes nothing.

    On other blocks the openings say so; on its own its own holds are not in the way.
    """
    own = Block.objects.filter(host__gpus__holds__lease=lease, model=lease.flavor.model).first()
    span = span_of(*holds.window(lease.flavor, lease.starts_at, lease.ends_at, now=now))
    if tightest_block(holds.pool_for(lease), *span, without={own.pk} if own else ()) is not None:
        return True
    if own is None:
        return False
    times = read(own, span)
    for gpu_id, starts_at, ends_at in lease.holds.values_list("gpu_id", "starts_at", "ends_at"):
        for time in times:
            if time.gpu.pk == gpu_id:
                time.free(span_of(starts_at, ends_at))
    return holds.pick_gpus(lease.flavor, times, span, avoid=gpu_ids, now=now) is not None


def overrunning(*, now: datetime) -> QuerySet[Hold]:
    """Holds that have run out although their GPU has not come back from that tenure."""
    return Hold.objects.filter(
        ends_at__lte=now,
        tenure=F("gpu__tenure"),
        gpu__state__in=[GpuState.LEASED, GpuState.DIRTY, GpuState.SCRUBBING],
        lease__state__in=[LeaseState.ACTIVE, LeaseState.RELEASING, LeaseState.ENDED],
    ).order_by("gpu_id")


def grow(overrun: Hold, *, now: datetime) -> Iterator[tuple[Lease, bool]]:
    """Extend a hold that has run out. Yields each lease that was in its way, and whether it could move.

    Runs in the caller's transaction. Leases are locked before their GPU, and both before the question
    whether the hold still overruns is asked again: its GPU may just have come back.
    """
    turnaround = timedelta(seconds=overrun.gpu.model.turnaround_seconds)
    until = now + max(OVERRUN_STEP, turnaround)
    later = Hold.objects.filter(gpu=overrun.gpu_id, starts_at__lt=until, starts_at__gte=overrun.ends_at)
    waiting = Lease.objects.filter(holds__in=later, state__in=AHEAD).select_related("flavor__model", "owner")
    leases = list(locked(waiting).order_by("id"))
    locked(Gpu.objects.all()).get(pk=overrun.gpu_id)
    if not overrunning(now=now).filter(pk=overrun.pk).exists():
        return
    for lease in leases:
        moved = move(lease, now=now, only_ready=False)
        if not moved:
            holds.delay(lease, [overrun.gpu_id], until)
        yield lease, moved
    holds.hold_until(overrun, until)


def _unfit(gpu_ids: frozenset[UUID], *, now: datetime) -> frozenset[UUID]:
    gpus = Gpu.objects.filter(pk__in=gpu_ids).select_related("host")
    return frozenset(gpu.pk for gpu in gpus if not is_ready(gpu, now=now))
