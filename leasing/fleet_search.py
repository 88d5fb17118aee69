"""Which hosts an operator looks at: by name, by what needs their attention, by the state of a GPU."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from hosts.models import FoundCard, Gpu, Host
from leasing.models import Hold
from leasing.states.gpu import GpuState
from leasing.timing import HOST_SILENT_AFTER

ATTENTION = "attention"
_SHOWN = ("host", "model__name", "address", "numa_node", "state", "state_reason")
ODD = (GpuState.QUARANTINED, GpuState.MAINTENANCE, GpuState.MISSING)


def find_hosts(*, name: str = "", show: str = "", now: datetime) -> QuerySet[Host]:
    """Hosts that are not retired, by name; `show` is ATTENTION, a state of GPUs, or nothing for all."""
    hosts = Host.objects.filter(retired_at=None).order_by("name")
    if name:
        hosts = hosts.filter(name__icontains=name)
    if show == ATTENTION:
        return hosts.filter(_needs_attention(now))
    return hosts.filter(_has_gpu(show)) if show else hosts


def count_hosts(*, now: datetime) -> tuple[int, int]:
    """How many there are that are not retired, and how many of them need attention."""
    counted = find_hosts(now=now).aggregate(total=Count("pk"), odd=Count("pk", filter=_needs_attention(now)))
    return counted["total"], counted["odd"]


def count_gpus() -> dict[str, int]:
    """GPUs of hosts that are not retired, by state; states that no GPU is in are left out."""
    rows = Gpu.objects.filter(host__retired_at=None).order_by().values_list("state")
    return dict(rows.annotate(Count("pk")))


def gpus_with_next_hold(*, now: datetime) -> QuerySet[Gpu]:
    """What is shown of GPUs, each with the times of the hold that is in force or comes next, if any."""
    # Holds of a GPU never overlap: those before the last that has begun need no look.
    begun = Hold.objects.filter(gpu=OuterRef(OuterRef("pk")), starts_at__lte=now).order_by("-starts_at")
    first = Coalesce(Subquery(begun.values("starts_at")[:1]), Value(now))
    coming = Hold.objects.filter(gpu=OuterRef("pk"), starts_at__gte=first, ends_at__gt=now)
    coming = coming.order_by("starts_at")
    gpus = Gpu.objects.select_related("model").only(*_SHOWN)
    return gpus.annotate(
        next_starts_at=Subquery(coming.values("starts_at")[:1]),
        next_ends_at=Subquery(coming.values("ends_at")[:1]),
    )


def _needs_attention(now: datetime) -> Q:
    """Out of reach, with a failed check or an odd GPU, or with a card that nobody has decided on."""
    heard_of = Q(last_seen_at__gt=now - HOST_SILENT_AFTER)
    in_service = Gpu.objects.filter(host=OuterRef("host"), address=OuterRef("address"))
    undecided = FoundCard.objects.present().filter(host=OuterRef("pk")).exclude(Exists(in_service))
    return ~heard_of | Q(check_up__failed__gt=0) | _has_gpu(*ODD) | Q(Exists(undecided))


def _has_gpu(*states: str) -> Q:
    return Q(Exists(Gpu.objects.filter(host=OuterRef("pk"), state__in=states)))
