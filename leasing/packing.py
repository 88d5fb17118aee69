"""How much is left whole: per GPU model, what is free now and how large the largest free block is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Exists, OuterRef, Q

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


def room_now(*, now: datetime) -> list[Room]:
    """What nobody has and nothing closes at this moment. A host is free if all its GPUs of the model are."""
    at_this_moment = Q(starts_at__lte=now) & (Q(ends_at=None) | Q(ends_at__gt=now))
    held = Hold.objects.filter(at_this_moment, gpu=OuterRef("pk"))
    closed = Closure.objects.filter(
        at_this_moment, Q(gpu=None) | Q(gpu=OuterRef("pk")), host=OuterRef("host")
    )
    free = Q(state__in=BOOKABLE) & ~Exists(held) & ~Exists(closed)
    gpus = Gpu.objects.annotate(is_free=free).values_list("model_id", "host_id", "is_free")
    blocks: dict[int, dict[UUID, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for model_id, host_id, is_free in gpus.order_by():
        blocks[model_id][host_id].append(is_free)
    return [_room(model, list(blocks[model.pk].values())) for model in GpuModel.objects.filter(pk__in=blocks)]


def _room(model: GpuModel, hosts: list[list[bool]]) -> Room:
    return Room(
        model=model,
        gpus=sum(len(host) for host in hosts),
        free=sum(sum(host) for host in hosts),
        hosts=len(hosts),
        free_hosts=sum(all(host) for host in hosts),
        largest=max(sum(host) for host in hosts),
    )
