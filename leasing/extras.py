"""What a workstation is to have beside its GPUs, and where and when that can be had.

A home volume and a snapshot lie in the storage pools of some hosts, and a USB device is plugged into one. A
home volume and a device are in one workstation at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import F, Min, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from hosts.models import Host, UsbDevice
from leasing.devices import InUse, in_use
from leasing.errors import NothingFree
from leasing.locking import locked
from leasing.models import (
    Block,
    Extension,
    Flavor,
    HomeVolume,
    Lease,
    Person,
    Snapshot,
    Tenant,
    WaitlistEntry,
)
from leasing.openings.spans import Span, micros
from leasing.reasons import NONE, Reason, because
from leasing.states.home import USABLE
from leasing.states.lease import LeaseState

# A lease in one of these gives its home volume back in minutes, or has.
_GIVES_BACK = (LeaseState.RELEASING, LeaseState.ENDED)


# When a lease ends, by what its person has asked for last.
_ASKED = Extension.objects.filter(lease=OuterRef("pk"), state=Extension.State.PENDING)
UNTIL = Coalesce(Subquery(_ASKED.values("new_ends_at")[:1]), F("ends_at"))


@dataclass(frozen=True)
class Taken:
    """No lease that overlaps this can have it all, and why."""

    starts_at: datetime
    ends_at: datetime
    because: Reason

    @property
    def span(self) -> Span:
        return Span(micros(self.starts_at), micros(self.ends_at))


@dataclass(frozen=True)
class Extras:
    """Whose home volume, which snapshot, which devices; by default nothing.

    `host_id` is the host into which the devices are plugged; `lease_id` the lease that has or is to have it
    all, once there is one: it is not in its own way. Made for one answer, it asks once what is in reach.
    """

    tenant_id: UUID | None = None
    owner_id: UUID | None = None
    with_home: bool = False
    snapshot: Snapshot | None = None
    host_id: UUID | None = None
    devices: tuple[UsbDevice, ...] = ()
    lease_id: UUID | None = None
    _reached: dict[int, frozenset[int] | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __bool__(self) -> bool:
        return self.with_home or self.snapshot is not None or self.host_id is not None

    @property
    def scarcest(self) -> str:
        """What of it the fewest hosts have, as a rule: for words about it."""
        return "snapshot" if self.snapshot is not None else "home" if self.with_home else "devices"

    def reach(self, flavor: Flavor) -> frozenset[int] | None:
        """The blocks whose hosts can give all of it to a workstation of the flavor; None: any."""
        if not self:
            return None
        if flavor.pk not in self._reached:
            self._reached[flavor.pk] = self._find_reach(flavor)
        return self._reached[flavor.pk]

    def _find_reach(self, flavor: Flavor) -> frozenset[int] | None:
        blocks = Block.objects.filter(model=flavor.model_id)
        if self.host_id is not None:
            blocks = blocks.filter(host=self.host_id)
        if self.lease_id is None and any(device.gone_at is not None for device in self.devices):
            blocks = blocks.none()
        if self.with_home:
            pools = self._home_pools()
            blocks = blocks.filter(Q(host__pool__in=pools) if pools else Q(host__pool__isnull=False))
        if self.snapshot is not None:
            blocks = _with_room(blocks, self.snapshot, flavor)
        found = frozenset(blocks.values_list("pk", flat=True))
        # A search without bounds is quicker.
        return None if len(found) == Block.objects.filter(model=flavor.model_id).count() else found

    def taken(self, flavor: Flavor, *, now: datetime) -> list[Taken]:
        """When some of it is in another workstation, now or later."""
        (found,) = taken_by_each([(self, flavor)], now=now)
        return found

    def lacking(self, flavor: Flavor, starts_at: datetime, ends_at: datetime, *, now: datetime) -> Reason:
        """Why a lease in this window cannot have it, wherever it is; no reason if it could."""
        taken = self.taken(flavor, now=now)
        return next((one.because for one in meeting(taken, starts_at, ends_at)), NONE)

    def booked_with(self, starts_at: datetime, ends_at: datetime) -> Lease | None:
        """Another lease that is to have the home volume in this window."""
        if not self.with_home:
            return None
        return self._others_with_home().filter(starts_at__lt=ends_at, until__gt=starts_at).first()

    def _others_with_home(self) -> QuerySet[Any]:
        return _with_home([self]).exclude(pk=self.lease_id)

    def _home_pools(self) -> set[int]:
        """Those in which the person has volumes of the team, or is to have one made by an earlier booking.

        There are none before the first booking: then it goes to any pool.
        """
        kept = HomeVolume.objects.filter(tenant=self.tenant_id, person=self.owner_id, state__in=USABLE)
        if pools := set(kept.values_list("pool", flat=True)):
            return pools
        hosts = Host.objects.filter(gpus__holds__lease__in=self._others_with_home(), pool__isnull=False)
        return set(hosts.values_list("pool__pk", flat=True))


PLAIN = Extras()


def extras_for(
    tenant: Tenant,
    person: Person,
    *,
    with_home: bool = False,
    snapshot: Snapshot | None = None,
    devices: Sequence[UsbDevice] = (),
) -> Extras:
    """What a person chooses for a workstation of a team; the devices are of one host."""
    return Extras(
        tenant_id=tenant.pk,
        owner_id=person.pk,
        with_home=with_home,
        snapshot=snapshot,
        host_id=devices[0].host_id if devices else None,
        devices=tuple(devices),
    )


def extras_of(lease: Lease) -> Extras:
    """Those of a lease. It need not be saved; its devices are known when it is."""
    devices = UsbDevice.objects.filter(leases__lease=lease.pk) if lease.bound_to_id else ()
    return Extras(
        tenant_id=lease.tenant_id,
        owner_id=lease.owner_id,
        with_home=lease.with_home,
        snapshot=lease.snapshot,
        host_id=lease.bound_to_id,
        devices=tuple(devices),
        lease_id=lease.pk,
    )


def extras_of_entry(entry: WaitlistEntry) -> Extras:
    """Those that somebody waits for; the entry is saved."""
    return extras_for(
        entry.tenant,
        entry.owner,
        with_home=entry.with_home,
        snapshot=entry.snapshot,
        devices=list(entry.devices.all()),
    )


def taken_by_each(asked: Sequence[tuple[Extras, Flavor]], *, now: datetime) -> list[list[Taken]]:
    """When some of each is in another workstation, now or later; two statements, however many they are."""
    homes: dict[tuple[UUID | None, UUID | None], list[Any]] = defaultdict(list)
    for other in _with_home([extras for extras, _flavor in asked if extras.with_home]).filter(until__gt=now):
        homes[other.tenant_id, other.owner_id].append(other)
    uses: dict[UsbDevice, list[InUse]] = defaultdict(list)
    for use in in_use({device for extras, _flavor in asked for device in extras.devices}, since=now):
        uses[use.device].append(use)
    return [[*_homes_taken(extras, homes), *_devices_taken(extras, flavor, uses)] for extras, flavor in asked]


def _with_home(asked: Sequence[Extras]) -> QuerySet[Any]:
    """The leases that are to have a home volume of one of these.

    A later end counts from when it is asked for, also while its host has yet to confirm it.
    """
    tenants, owners = ({getattr(one, name) for one in asked} for name in ("tenant_id", "owner_id"))
    leases = Lease.objects.filter(tenant__in=tenants, owner__in=owners, with_home=True)
    return leases.annotate(until=UNTIL).exclude(state__in=_GIVES_BACK)


def _homes_taken(
    extras: Extras, homes: Mapping[tuple[UUID | None, UUID | None], Iterable[Any]]
) -> Iterator[Taken]:
    if extras.with_home:
        for other in homes.get((extras.tenant_id, extras.owner_id), ()):
            if other.pk != extras.lease_id:
                yield Taken(other.starts_at, other.until, why_home_is_taken(other))


def _devices_taken(
    extras: Extras, flavor: Flavor, uses: Mapping[UsbDevice, Iterable[InUse]]
) -> Iterator[Taken]:
    """A lease needs its devices as long as its GPUs: no longer before it than from now on, so that what is
    over by now is in nobody's way.
    """
    lead = timedelta(seconds=flavor.model.lead_seconds)
    turnaround = timedelta(seconds=flavor.model.turnaround_seconds)
    for device in extras.devices:
        reason = because("device-is-booked", device=device.name or device.usb_id)
        for use in uses.get(device, ()):
            if use.lease_id != extras.lease_id:
                yield Taken(use.starts_at - turnaround, use.ends_at + lead, reason)


def look_again(entries: QuerySet[WaitlistEntry]) -> None:
    """More may be in reach of these now: at the next tick all that is free is looked at for them.

    To be called last in its transaction: entries are locked after blocks.
    """
    stale = {entry.pk for entry in locked(entries.filter(closed_at=None, fresh=False)).order_by("id")}
    WaitlistEntry.objects.filter(pk__in=stale).update(fresh=True)


def why_home_is_taken(other: Lease) -> Reason:
    """Of a lease that is to have the home volume."""
    if other.state == LeaseState.OFFERED:
        return because("home-is-offered")
    return because("home-is-booked", other=other.machine_name)


def meeting(taken: Iterable[Taken], starts_at: datetime, ends_at: datetime) -> Iterator[Taken]:
    """Those that overlap a window."""
    return (one for one in taken if one.starts_at < ends_at and one.ends_at > starts_at)


def nothing_with(extras: Extras, flavor: Flavor) -> NothingFree:
    """No host that can give all of it has GPUs free in the window."""
    words, hint = _NOTHING_WITH[extras.scarcest]
    return NothingFree(_(words) % {"flavor": flavor.name}, hint=_(hint))


_NOTHING_WITH = {
    "snapshot": (
        gettext_noop("No %(flavor)s that can start from your snapshot is free from then until then."),
        gettext_noop("Choose another time, or book it without the snapshot."),
    ),
    "home": (
        gettext_noop("No %(flavor)s that can have your home volume is free from then until then."),
        gettext_noop("Choose another time, or book it without your home volume."),
    ),
    "devices": (
        gettext_noop("No %(flavor)s is free from then until then where your devices are plugged in."),
        gettext_noop("Choose another time, or book it without them."),
    ),
}


def _with_room(blocks: QuerySet[Block], snapshot: Snapshot, flavor: Flavor) -> QuerySet[Block]:
    """Blocks of hosts that have the snapshot, and room for its disk."""
    shares = blocks.filter(host__gpus__model=F("model")).annotate(share=Min("host__gpus__share_disk_gib"))
    return shares.filter(host__pool=snapshot.pool_id, share__gte=-(-snapshot.size_gib // flavor.gpu_count))
