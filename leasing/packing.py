"""How much is left whole: per GPU model, what is free now and how large the largest free block is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Exists, OuterRef, Q, Subquery, Value
from django.db.models.functions import Coalesce

from hosts.models import Gpu, GpuModel
from leasing.models import Closure, Hold
from leasing.states.gpu import BOOKABLE, GpuState

_UNUSED = BOOKABLE - {GpuState.LEASED}


@dataclass(frozen=True)
class Room:
    """Of one model: its GPUs and hosts, how many are free, and the most that are free on one host."""

    model: GpuModel
    gpus: int
    free: int
    hosts: int
    free_hosts: int
    largest: int


def room_now(models: Iterable[GpuModel], *, now: datetime) -> list[Room]:
    """What nobody has or holds and nothing closes at this moment, of each model that there are GPUs of.

    A host is free if all its GPUs of the model are.
    """
    at_this_moment = Q(starts_at__lte=now) & (Q(ends_at=None) | Q(ends_at__gt=now))
    closed = Closure.objects.filter(
        at_this_moment, Q(gpu=None) | Q(gpu=OuterRef("pk")), host=OuterRef("host")
    )
    # Holds of a GPU never overlap: one look at the last that has begun, however many there were before.
    begun = Hold.objects.filter(gpu=OuterRef("pk"), starts_at__lte=now).order_by("-starts_at")
    held_until = Coalesce(Subquery(begun.values("ends_at")[:1]), Value(now))
    free = Q(state__in=_UNUSED) & Q(held_until__lte=now) & Q(~Exists(closed))
    gpus = Gpu.objects.annotate(held_until=held_until).order_by().values("model_id", "host_id")
    blocks: dict[int, list[tuple[int, int]]] = defaultdict(list)
    counted = gpus.annotate(count=Count("pk"), spare=Count("pk", filter=free))
    for model_id, count, spare in counted.values_list("model_id", "count", "spare"):
        blocks[model_id].append((count, spare))
    return [_room(model, blocks[model.pk]) for model in models if model.pk in blocks]


def _room(model: GpuModel, hosts: list[tuple[int, int]]) -> Room:
    """Of each host, how many GPUs of the model it has and how many of them are free."""
    return Room(
        model=model,
        gpus=sum(count for count, _free in hosts),
        free=sum(free for _count, free in hosts),
        hosts=len(hosts),
        free_hosts=sum(count == free for count, free in hosts),
        largest=max(free for _count, free in hosts),
    )
