"""What stands in the way of a window, as far as the person who asks may know it.

Whoever else has booked is never named. Each GPU that cannot serve has causes; those are told of which one
alone, were it gone, would let the window fit, or else all that there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from django.db.models import Q, QuerySet

from hosts.models import Gpu
from leasing.extras import PLAIN, Extras
from leasing.holds import window
from leasing.models import Block, Closure, Flavor, Hold, Lease, Person
from leasing.openings.spans import micros
from leasing.openings.upkeep import kept_of
from leasing.reasons import Reason, because
from leasing.states.gpu import BOOKABLE
from leasing.states.lease import LeaseState


class Cause(StrEnum):
    """Why a GPU cannot serve. `TURNAROUND`: it is needed only to clean it, or to build the machine."""

    OUT_OF_SERVICE = "gpus-out-of-service"
    OWN = "own-workstations"
    OTHERS = "booked-by-others"
    KEPT = "kept-for-the-line"
    TURNAROUND = "no-time-between"


Blocked = Sequence[frozenset[Cause]]
Held = tuple[datetime, datetime]


def telling(groups: Iterable[Blocked], count: int) -> list[Cause]:
    """The causes to tell of, of a window that needs `count` GPUs of one group; none if nothing is in the way,
    or if no group has so many.
    """
    large = [group for group in groups if len(group) >= count]
    if _fits(large, count, frozenset()):
        return []
    present = [cause for cause in Cause if any(cause in gpu for group in large for gpu in group)]
    return [cause for cause in present if _fits(large, count, frozenset([cause]))] or present


@dataclass(frozen=True)
class InTheWay:
    """Why a window cannot be had, and which leases of the person's own have such GPUs then."""

    reasons: list[Reason]
    own: list[Lease]


def in_the_way(
    flavor: Flavor,
    starts_at: datetime,
    ends_at: datetime,
    *,
    person: Person,
    extras: Extras = PLAIN,
    now: datetime,
) -> InTheWay:
    """What keeps the person from a lease of the flavor in this window, where it could be with the extras."""
    span = window(flavor, starts_at, ends_at, now=now)
    hosts = _hosts_in_reach(flavor, extras)
    groups = _groups(flavor, starts_at, ends_at, span, person=person, hosts=hosts)
    if all(len(group) < flavor.gpu_count for group in groups):
        too_few = "too-few-with-extras" if extras else "too-few-together"
        return InTheWay([because(too_few, gpus=flavor.gpu_count, model=flavor.model.name)], [])
    causes = telling(groups, flavor.gpu_count)
    own = _own(flavor, span, person) if Cause.OWN in causes else []
    return InTheWay([_said(cause, flavor) for cause in causes], own)


def _said(cause: Cause, flavor: Flavor) -> Reason:
    if cause is not Cause.TURNAROUND:
        return because(cause)
    seconds = flavor.model.lead_seconds + flavor.model.turnaround_seconds
    return because(cause, minutes=-(-seconds // 60))


def _own(flavor: Flavor, span: Held, person: Person) -> list[Lease]:
    meeting = _meeting(flavor, span).filter(lease__owner=person).exclude(lease__state=LeaseState.OFFERED)
    return list(Lease.objects.filter(holds__in=meeting).distinct().order_by("starts_at", "id"))


def _meeting(flavor: Flavor, span: Held) -> QuerySet[Hold]:
    return Hold.objects.filter(gpu__model=flavor.model, starts_at__lt=span[1], ends_at__gt=span[0])


def _fits(groups: Iterable[Blocked], count: int, without: frozenset[Cause]) -> bool:
    return any(sum(gpu <= without for gpu in group) >= count for group in groups)


def _groups(
    flavor: Flavor,
    starts_at: datetime,
    ends_at: datetime,
    span: Held,
    *,
    person: Person,
    hosts: frozenset[UUID] | None,
) -> list[Blocked]:
    """For each of the hosts, or NUMA node where one must serve alone, the causes of each GPU of the model."""
    causes: dict[UUID, set[Cause]] = defaultdict(set)
    facts = _meeting(flavor, span).values_list(
        "gpu_id", "lease__owner_id", "lease__state", "lease__starts_at", "lease__ends_at"
    )
    for gpu_id, owner_id, state, begins, ends in facts:
        if state == LeaseState.OFFERED:
            causes[gpu_id].add(Cause.KEPT)
        elif begins >= ends_at or ends <= starts_at:
            causes[gpu_id].add(Cause.TURNAROUND)
        else:
            causes[gpu_id].add(Cause.OWN if owner_id == person.pk else Cause.OTHERS)
    for gpu_id in _kept(flavor, span):
        causes[gpu_id].add(Cause.KEPT)
    closed = _closed(span)
    groups: dict[tuple[UUID, int], list[frozenset[Cause]]] = defaultdict(list)
    gpus = Gpu.objects.filter(model=flavor.model)
    if hosts is not None:
        gpus = gpus.filter(host__in=hosts)
    for gpu_id, host_id, node, state in gpus.values_list("pk", "host_id", "numa_node", "state"):
        if state not in BOOKABLE or gpu_id in closed or host_id in closed:
            causes[gpu_id].add(Cause.OUT_OF_SERVICE)
        key = host_id, node if flavor.numa == Flavor.Numa.REQUIRED else 0
        groups[key].append(frozenset(causes[gpu_id]))
    return list(groups.values())


def _hosts_in_reach(flavor: Flavor, extras: Extras) -> frozenset[UUID] | None:
    """None: all."""
    reach = extras.reach(flavor)
    if reach is None:
        return None
    return frozenset(Block.objects.filter(pk__in=reach).values_list("host_id", flat=True))


def _closed(span: Held) -> set[UUID]:
    """GPUs, and hosts as a whole, that are closed at any time of the span."""
    meeting = Closure.objects.filter(Q(ends_at=None) | Q(ends_at__gt=span[0]), starts_at__lt=span[1])
    return {closure.host_id if closure.gpu_id is None else closure.gpu_id for closure in meeting}


def _kept(flavor: Flavor, span: Held) -> Iterator[UUID]:
    """GPUs that are kept for somebody who waits."""
    for block in Block.objects.filter(model=flavor.model, kept_for__isnull=False):
        for gpu_id, kept in kept_of(block):
            if kept.starts < micros(span[1]) and kept.ends > micros(span[0]):
                yield gpu_id
