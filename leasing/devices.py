"""USB devices that people choose: which there are, whose they are, and that nobody else has them then.

A chosen device binds the lease to its host. It is the lease's as long as the lease has GPUs. The rows of
devices are locked last of all, so that of two who want one the second sees the first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext as _

from hosts.models import Gpu, Host, UsbDevice
from hosts.protocol import messages as m
from leasing.errors import InvalidRequest, NothingFree
from leasing.locking import locked
from leasing.models import Flavor, Lease, LeaseDevice
from leasing.models.catalogue import MOST_USB_DEVICES
from leasing.states.gpu import BOOKABLE
from leasing.states.lease import HOLDING, ON_HOST


def offered_devices() -> QuerySet[UsbDevice]:
    """Those that are plugged in and that no flavor gives by itself."""
    return _present().exclude(usb_id__in=_given_by_flavors())


def _present() -> QuerySet[UsbDevice]:
    present = UsbDevice.objects.filter(gone_at=None, host__retired_at=None)
    return present.select_related("host").order_by("name", "host__name", "port")


def _given_by_flavors() -> set[str]:
    return {usb_id for ids in Flavor.objects.values_list("usb_devices", flat=True) for usb_id in ids}


def devices_for(flavor: Flavor) -> QuerySet[UsbDevice]:
    """What a workstation of the flavor could have: devices of hosts that have its GPUs in service."""
    gpus = Gpu.objects.filter(host=OuterRef("host"), model=flavor.model_id, state__in=BOOKABLE)
    return offered_devices().filter(Exists(gpus))


def devices_with_models() -> list[tuple[UsbDevice, set[int]]]:
    """All of those, each with the GPU models that its host has in service."""
    present = list(_present())
    if not present:
        return []
    given, models = _given_by_flavors(), defaultdict[UUID, set[int]](set)
    gpus = Gpu.objects.filter(host__in={device.host_id for device in present}, state__in=BOOKABLE).order_by()
    for host_id, model_id in gpus.values_list("host", "model").distinct():
        models[host_id].add(model_id)
    return [(device, models[device.host_id]) for device in present if device.usb_id not in given]


def chosen_devices(flavor: Flavor, ids: Collection[int]) -> list[UsbDevice]:
    """The devices of these numbers. Raises InvalidRequest for what cannot be chosen, or not together."""
    if not ids:
        return []
    if len(ids) + len(flavor.usb_devices) > MOST_USB_DEVICES:
        raise InvalidRequest(_("At most %(count)d USB devices.") % {"count": MOST_USB_DEVICES}, field="usb")
    found = list(devices_for(flavor).filter(pk__in=ids))
    if len(found) < len(set(ids)):
        raise InvalidRequest(
            _("No host has this device for this workstation."), hint=_("Choose another one."), field="usb"
        )
    if len({device.host_id for device in found}) > 1:
        raise InvalidRequest(
            _("These devices are at different hosts."), hint=_("Choose devices of one host."), field="usb"
        )
    return found


def give(lease: Lease, devices: Sequence[UsbDevice]) -> None:
    """The lease, which is saved, has these from now on, if it has GPUs and `require_free` agrees."""
    if devices:
        LeaseDevice.objects.bulk_create(LeaseDevice(lease=lease, device=device) for device in devices)


@dataclass(frozen=True)
class InUse:
    """When a device is a lease's: as long as that has GPUs, lead and turnaround included."""

    device: UsbDevice
    lease_id: UUID
    starts_at: datetime
    ends_at: datetime


def in_use(devices: Iterable[UsbDevice], *, since: datetime) -> list[InUse]:
    """When they are leases', from a time on; one statement, however many they are."""
    of_id = {device.pk: device for device in devices}
    held = LeaseDevice.objects.filter(device__in=of_id, lease__state__in=HOLDING)
    rows = held.filter(lease__holds__ends_at__gt=since).values_list(
        "device", "lease", "lease__holds__starts_at", "lease__holds__ends_at"
    )
    return [
        InUse(of_id[device_id], lease_id, starts_at, ends_at)
        for device_id, lease_id, starts_at, ends_at in rows.distinct()
    ]


def require_free(lease: Lease) -> None:
    """Nobody else has its devices while it has its GPUs. Raises NothingFree; call it when it has them."""
    spans = list(lease.holds.values_list("starts_at", "ends_at")) if lease.bound_to_id else []
    if not spans:
        return
    theirs = UsbDevice.objects.filter(pk__in=lease.devices.values("device"))
    begins, ends = min(starts_at for starts_at, _end in spans), max(end for _start, end in spans)
    for use in in_use(locked(theirs).order_by("id"), since=begins):
        if use.lease_id != lease.pk and use.starts_at < ends:
            device = use.device.name or use.device.usb_id
            raise NothingFree(
                _("%(device)s is somebody else's then.") % {"device": device},
                hint=_("Choose another time, or go without it."),
                field="usb",
            )


def are_there(lease: Lease) -> bool:
    """Whether its devices are plugged in, and out of everybody else's machine."""
    if lease.bound_to_id is None:
        return True
    devices = UsbDevice.objects.filter(leases__lease=lease)
    if devices.exclude(gone_at=None).exists():
        return False
    others = LeaseDevice.objects.filter(device__in=devices, lease__state__in=ON_HOST)
    return not others.exclude(lease=lease).exists()


def told(devices: Iterable[UsbDevice | m.UsbDevice]) -> list[str]:
    """As the audit log calls them, by their ports."""
    return [f"{each.usb_id} {each.port}" for each in sorted(devices, key=lambda each: each.port)]


def orders_of(lease: Lease) -> tuple[m.UsbDevice, ...]:
    """What its host is told."""
    if lease.bound_to_id is None:
        return ()
    devices = UsbDevice.objects.filter(leases__lease=lease).order_by("port")
    return tuple(m.UsbDevice(usb_id=device.usb_id, port=device.port, name=device.name) for device in devices)


def take_devices(host: Host, told: Iterable[m.UsbDevice], *, now: datetime) -> bool:
    """Note what the host has now. Returns whether something that was gone is back."""
    present = {(each.usb_id, each.port): each.name for each in told}
    known = {(row.usb_id, row.port): row for row in UsbDevice.objects.filter(host=host)}
    came_back = any(row.gone_at is not None and key in present for key, row in known.items())
    for key, row in known.items():
        gone_at = None if key in present else row.gone_at or now
        name = present.get(key, row.name)
        if (row.gone_at, row.name) != (gone_at, name):
            row.gone_at, row.name = gone_at, name
            row.save(update_fields=["gone_at", "name"])
    UsbDevice.objects.bulk_create(
        UsbDevice(host=host, usb_id=usb_id, port=port, name=name)
        for (usb_id, port), name in present.items()
        if (usb_id, port) not in known
    )
    return came_back
