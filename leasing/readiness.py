"""Readiness: which GPUs could be handed over at this moment."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef

from hosts.models import Gpu
from leasing.models import Hold
from leasing.states.gpu import GpuState
from leasing.timing import HOST_SILENT_AFTER

_INSTANT = timedelta(seconds=1)


def is_ready(gpu: Gpu, *, now: datetime) -> bool:
    """Clean, and its host was heard of lately."""
    return seen_ready(gpu.state, gpu.host.last_seen_at, now=now)


def seen_ready(state: str, seen: datetime | None, *, now: datetime) -> bool:
    """The same of a GPU in this state whose host was last heard of then, or never."""
    return state == GpuState.CLEAN and seen is not None and now - seen < HOST_SILENT_AFTER


def models_with_spare(*, now: datetime) -> frozenset[int]:
    """The GPU models of which one could be handed over at this moment."""
    busy = Hold.objects.filter(gpu=OuterRef("pk"), starts_at__lt=now + _INSTANT, ends_at__gt=now)
    clean = Gpu.objects.filter(state=GpuState.CLEAN, host__last_seen_at__gt=now - HOST_SILENT_AFTER)
    return frozenset(clean.exclude(Exists(busy)).values_list("model_id", flat=True))
