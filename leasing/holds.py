"""Holds: placing, moving, shrinking, growing. The database refuses any two that overlap on one GPU."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.utils.translation import gettext as _

from hosts.models import Gpu
from leasing.errors import NothingFree
from leasing.locking import locked
from leasing.models import Flavor, Hold, Lease
from leasing.placement import FreeGpu, choose_gpus
from leasing.states.gpu import BOOKABLE, GpuState
from leasing.states.lease import LeaseState
from leasing.timing import HOST_SILENT_AFTER, OVERRUN_STEP

OVERLAP = "leasing_hold_no_overlap"
_RETRIES = 5
_INSTANT = timedelta(seconds=1)


def window(
    flavor: Flavor, starts_at: datetime, ends_at: datetime, *, now: datetime
) -> tuple[datetime, datetime]:
    """The lease's window with the model's lead before it (never in the past) and its turnaround after it."""
    lead = timedelta(seconds=flavor.model.lead_seconds)
    turnaround = timedelta(seconds=flavor.model.turnaround_seconds)
    return max(now, starts_at - lead), ends_at + turnaround


def place(
    lease: Lease, *, now: datetime, only_ready: bool = False, avoid: frozenset[UUID] = frozenset()
) -> None:
    """Hold GPUs for the lease, in GPU order. Raises NothingFree; loses a race only after several tries."""
    starts_at, ends_at = window(lease.flavor, lease.starts_at, lease.ends_at, now=now)
    for _attempt in range(_RETRIES):
        free = [
            gpu
            for gpu in free_gpus(lease.flavor, starts_at, ends_at, now=now)
            if gpu.gpu_id not in avoid and (gpu.ready or not only_ready)
        ]
        chosen = choose_gpus(
            free,
            count=lease.flavor.gpu_count,
            one_node=lease.flavor.numa == Flavor.Numa.REQUIRED,
            want_ready=starts_at <= now,
        )
        if chosen is None:
            break
        if _insert(lease, chosen, starts_at, ends_at):
            return
    raise NothingFree(
        _("No %(flavor)s is free from then until then.") % {"flavor": lease.flavor.name},
        hint=_("Somebody else has it. Choose another time, a shorter one, or another workstation."),
    )


def free_gpus(flavor: Flavor, starts_at: datetime, ends_at: datetime, *, now: datetime) -> list[FreeGpu]:
    """GPUs of the flavor's model that may be booked and have no hold in the window."""
    gpus = _bookable(starts_at, ends_at).filter(model=flavor.model)
    return [
        FreeGpu(
            gpu_id=gpu.pk,
            host_id=gpu.host_id,
            numa_node=gpu.numa_node,
            ready=is_ready(gpu, now=now),
        )
        for gpu in gpus.select_related("host")
    ]


def models_with_spare(*, now: datetime) -> frozenset[int]:
    """The GPU models of which one could be handed over at this moment."""
    spare = _bookable(now, now + _INSTANT).filter(
        state=GpuState.CLEAN, host__last_seen_at__gt=now - HOST_SILENT_AFTER
    )
    return frozenset(spare.values_list("model_id", flat=True))


def is_ready(gpu: Gpu, *, now: datetime) -> bool:
    """Clean, and its host was heard of lately."""
    seen = gpu.host.last_seen_at
    return gpu.state == GpuState.CLEAN and seen is not None and now - seen < HOST_SILENT_AFTER


def move(lease: Lease, *, now: datetime, only_ready: bool) -> bool:
    """Hold other, equal GPUs for a lease that has not started; False, unchanged, if none is free.

    The caller has locked the lease: nobody else may give it holds, or take them away, meanwhile.
    """
    try:
        with transaction.atomic():
            avoid = frozenset(lease.holds.values_list("gpu_id", flat=True))
            lease.holds.all().delete()
            place(lease, now=now, only_ready=only_ready, avoid=_unfit(avoid, now=now))
    except NothingFree:
        return False
    return True


def drop(lease: Lease) -> None:
    """The lease ended without ever having had its GPUs."""
    lease.holds.all().delete()


def shrink(lease: Lease, *, now: datetime) -> None:
    """The lease stopped: what lies beyond the turnaround, which begins now, is free at once."""
    for hold in lease.holds.select_related("gpu__model"):
        _end_by(hold, now + timedelta(seconds=hold.gpu.model.turnaround_seconds))


def settle(gpu: Gpu, *, now: datetime) -> None:
    """The GPU is clean, or out of service: its last tenure's hold ends now."""
    for hold in Hold.objects.filter(gpu=gpu, tenure=gpu.tenure, ends_at__gt=now):
        _end_by(hold, now)


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
    waiting = Lease.objects.filter(
        holds__in=later, state__in=[LeaseState.REQUESTED, LeaseState.SCHEDULED]
    ).select_related("flavor__model", "owner")
    leases = list(locked(waiting).order_by("id"))
    locked(Gpu.objects.all()).get(pk=overrun.gpu_id)
    if not overrunning(now=now).filter(pk=overrun.pk).exists():
        return
    for lease in leases:
        moved = move(lease, now=now, only_ready=False)
        if not moved:
            _delay(lease, overrun.gpu, until)
        yield lease, moved
    Hold.objects.filter(pk=overrun.pk).update(ends_at=until)


def _bookable(starts_at: datetime, ends_at: datetime) -> QuerySet[Gpu]:
    taken = Hold.objects.filter(gpu=OuterRef("pk"), starts_at__lt=ends_at, ends_at__gt=starts_at)
    return Gpu.objects.filter(state__in=BOOKABLE, host__accepting=True).exclude(Exists(taken))


def _delay(lease: Lease, gpu: Gpu, until: datetime) -> None:
    hold = lease.holds.get(gpu=gpu)
    if until < hold.ends_at:
        hold.starts_at = until
        hold.save(update_fields=["starts_at"])
    else:
        hold.delete()


def _end_by(hold: Hold, ends_at: datetime) -> None:
    ends_at = max(ends_at, hold.starts_at + _INSTANT)
    if ends_at < hold.ends_at:
        hold.ends_at = ends_at
        hold.save(update_fields=["ends_at"])


def _insert(lease: Lease, chosen: list[FreeGpu], starts_at: datetime, ends_at: datetime) -> bool:
    try:
        with transaction.atomic():
            for gpu in sorted(chosen):
                Hold.objects.create(lease=lease, gpu_id=gpu.gpu_id, starts_at=starts_at, ends_at=ends_at)
    except IntegrityError as error:
        if OVERLAP not in str(error):
            raise
        return False
    return True


def _unfit(gpu_ids: frozenset[UUID], *, now: datetime) -> frozenset[UUID]:
    gpus = Gpu.objects.filter(pk__in=gpu_ids).select_related("host")
    return frozenset(gpu.pk for gpu in gpus if not is_ready(gpu, now=now))
