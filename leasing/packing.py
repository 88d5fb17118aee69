"""How much is left whole: per GPU model, what is free now and how large the largest free block is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Exists, OuterRef, Q

from hosts.models import Gpu, GpuModel
from leasing.models import Closure, Hold
from leasing.states.gpu import BOOKABLE


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
    """What nobody has and nothing closes at this moment, of each model that there are GPUs of.

    A host is free if all its GPUs of the model are.
    """
    at_this_moment = Q(starts_at__lte=now) & (Q(ends_at=None) | Q(ends_at__gt=now))
    held = Hold.objects.filter(at_this_moment, gpu=OuterRef("pk"))
    closed = Closure.objects.filter(
        at_this_moment, Q(gpu=None) | Q(gpu=OuterRef("pk")), host=OuterRef("host")
    )
    free = Q(state__in=BOOKABLE) & ~Exists(held) & ~Exists(closed)
    gpus = Gpu.objects.annotate(is_free=free).order_by().values_list("model_id", "host_id")
    blocks: dict[int, list[tuple[int, int]]] = defaultdict(list)
    counted = gpus.annotate(count=Count("pk"), spare=Count("pk", filter=Q(is_free=True)))
    for model_id, _host_id, count, spare in counted:
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
