"""Those who wait, the first first: what each would take, when that is free, whether it can be had."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet

from leasing import policy
from leasing.extras import extras_of_entry, taken_by_each
from leasing.homes import are_offered
from leasing.lines import Wish
from leasing.models import Lease, WaitlistEntry
from leasing.openings.spans import MICROSECOND, Span, micros, moment
from leasing.openings.upkeep import span_of
from leasing.reasons import NONE, Reason, because
from leasing.slots import find_start
from leasing.states.lease import LeaseState, Outcome
from leasing.states.snapshot import SnapshotState


def line(model_id: int | None = None) -> QuerySet[WaitlistEntry]:
    """Those who wait and have no offer, the first first; for one GPU model, or all."""
    offers = Lease.objects.filter(entry=OuterRef("pk"), state=LeaseState.OFFERED)
    waiting = WaitlistEntry.objects.filter(~Exists(offers), closed_at=None)
    if model_id is not None:
        waiting = waiting.filter(flavor__model=model_id)
    return (
        waiting.select_related("flavor__model", "image", "owner", "tenant", "snapshot")
        .prefetch_related("devices__host")
        .order_by("rank_at", "joined_at", "id")
    )


def fresh_entries() -> QuerySet[WaitlistEntry]:
    """Those for whom what is free is to be looked at: they joined, changed, or had an offer till now."""
    return line().filter(fresh=True)


def hopeless(now: datetime) -> QuerySet[WaitlistEntry]:
    """Those for whom it is too late, or for whom something is gone for good."""
    return line().filter(Q(last_start_at__lt=now) | Q(devices__host__retired_at__isnull=False))


def wishes(entries: Iterable[WaitlistEntry], *, now: datetime) -> list[tuple[WaitlistEntry, Wish]]:
    """What each waits for. Nothing that overlaps an offer which it let pass is offered to it again, nor
    anything while its home volume or a device of it is in another workstation.
    """
    waiting = list(entries)
    apart: dict[UUID, list[Span]] = defaultdict(list)
    refused = [entry.pk for entry in waiting if entry.passes]
    rows = Lease.objects.filter(entry__in=refused, outcome=Outcome.PASSED)
    for entry_id, starts_at, ends_at in rows.values_list("entry_id", "starts_at", "ends_at"):
        apart[entry_id].append(span_of(starts_at, ends_at))
    taken = taken_by_each([(extras_of_entry(entry), entry.flavor) for entry in waiting], now=now)
    for entry, theirs in zip(waiting, taken, strict=True):
        apart[entry.pk] += [one.span for one in theirs]
    return [(entry, wish_of(entry, apart[entry.pk])) for entry in waiting]


def wish_of(entry: WaitlistEntry, apart: list[Span]) -> Wish:
    return Wish(
        gpus=entry.flavor.gpu_count,
        duration=entry.duration // MICROSECOND,
        earliest=micros(entry.earliest_at),
        last_start=micros(entry.last_start_at),
        apart=tuple(apart),
    )


def free_start(entry: WaitlistEntry, wish: Wish, *, now: datetime) -> datetime | None:
    """The first start that is free anywhere and that the entry would take."""
    asked, extras = wish.next_start(micros(now)), extras_of_entry(entry)
    while asked is not None:
        start = find_start(
            entry.flavor,
            entry.duration,
            earliest=moment(asked),
            deadline=entry.deadline_at,
            extras=extras,
            now=now,
        )
        if start is None:
            return None
        found, asked = micros(start), wish.next_start(micros(start))
        if asked == found:
            return start
    return None


def impossible_because(entry: WaitlistEntry) -> Reason:
    """Why nothing can be offered to the entry any more; no reason if something can."""
    if not policy.has_role(entry.owner, entry.tenant, "member"):
        return because("wait-no-member")
    if not (entry.flavor.offered and entry.image.offered):
        return because("wait-not-offered")
    if entry.with_home and not are_offered():
        return because("wait-no-homes")
    if entry.snapshot is not None and entry.snapshot.state != SnapshotState.KEPT:
        return because("wait-no-snapshot")
    if any(device.host.retired_at is not None for device in entry.devices.all()):
        return because("wait-no-device")
    return NONE
