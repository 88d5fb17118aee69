"""From rows to the goals that a host is given. Reads the database, writes nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from django.db.models import Min

from hosts.models import Division, Gpu, GpuModel, Host
from hosts.protocol.codec import PROTOCOL, is_said_in
from hosts.protocol.evidence import ReadBack
from hosts.protocol.homes import HOME_SERIAL
from hosts.protocol.machine import Firmware
from hosts.protocol.messages import (
    Divide,
    Fingerprint,
    GpuOrder,
    GuestOrder,
    HomeOrder,
    ImageOrder,
    Intake,
    MachineOrder,
    Mount,
    NetworkOrder,
    Power,
    Provision,
    Release,
    RemoveHome,
    RemoveSnapshot,
    ScrubPolicy,
    SnapshotOrder,
    TakeSnapshot,
    Undivide,
    Update,
)
from hosts.protocol.signing import seal
from leasing import devices
from leasing.keys import open_storage_key
from leasing.models import HomeVolume, Lease, Snapshot, SshKey
from leasing.states.snapshot import SnapshotState
from leasing.timing import SHUTDOWN_PATIENCE, STOP_GRACE

LeaseGoal = Provision | Release | Power
PowerAction = Literal["on", "off", "restart"]
_ImageFormat = Literal["direct-kernel", "qcow2", "raw"]


def home_subject(volume: HomeVolume) -> str:
    return f"home:{volume.pk}"


def snapshot_subject(snapshot: Snapshot) -> str:
    return f"snapshot:{snapshot.pk}"


def lease_subject(lease: Lease) -> str:
    return f"lease:{lease.pk}"


def gpu_subject(gpu: Gpu) -> str:
    return f"gpu:{gpu.pk}"


def provision(lease: Lease) -> Provision:
    """The machine is the sum of its GPUs' shares of the host."""
    gpus = _gpus(lease)
    image = lease.image
    return Provision(
        lease_id=lease.pk,
        ends_at=lease.ends_at,
        grace_seconds=int(STOP_GRACE.total_seconds()),
        gpus=tuple(_order(gpu) for gpu in gpus),
        machine=MachineOrder(
            name=lease.machine_name,
            vcpus=sum(gpu.share_vcpus for gpu in gpus),
            memory_mib=sum(gpu.share_memory_mib for gpu in gpus),
            disk_gib=sum(gpu.share_disk_gib for gpu in gpus),
            image=ImageOrder(
                name=image.file_name,
                format=msgspec.convert(image.format, type=_ImageFormat),
                digest=image.digest,
                cmdline=image.cmdline,
                firmware=msgspec.convert(image.firmware, type=Firmware),
                tpm=image.tpm,
                hides_hypervisor=image.hides_hypervisor,
            ),
            guest=_guest(lease) if image.cloud_init else None,
            usb=tuple(lease.flavor.usb_devices),
            network=NetworkOrder(ports=tuple(image.ports)),
            chosen_usb=devices.orders_of(lease),
            home=_home(lease),
            snapshot=_order_of(lease.snapshot, lease.host) if lease.snapshot and lease.host else None,
        ),
    )


def _home(lease: Lease) -> HomeOrder | None:
    """The volume that is attached to it, its key sealed to the host."""
    volume = HomeVolume.objects.filter(lease=lease).select_related("pool").first()
    if volume is None or lease.host is None:
        return None
    key = open_storage_key(volume.sealed_key, volume.pk)
    return HomeOrder(
        volume_id=volume.pk,
        pool=volume.pool.name,
        size_gib=volume.size_gib,
        made=volume.made_at is not None,
        sealed_key=seal(key, to_public_hex=lease.host.sealing_key),
    )


def take_snapshot(snapshot: Snapshot, host: Host) -> TakeSnapshot:
    return TakeSnapshot(lease_id=snapshot.lease_id, snapshot=_order_of(snapshot, host))


def _order_of(snapshot: Snapshot, host: Host) -> SnapshotOrder:
    """With its key, sealed to the host."""
    key = open_storage_key(snapshot.sealed_key, snapshot.pk)
    sealed = seal(key, to_public_hex=host.sealing_key)
    return SnapshotOrder(snapshot_id=snapshot.pk, pool=snapshot.pool.name, sealed_key=sealed)


def remove_snapshot(snapshot: Snapshot) -> RemoveSnapshot:
    return RemoveSnapshot(snapshot_id=snapshot.pk, pool=snapshot.pool.name)


def remove_home(volume: HomeVolume) -> RemoveHome:
    return RemoveHome(volume_id=volume.pk, pool=volume.pool.name)


def _guest(lease: Lease) -> GuestOrder:
    """The owner's keys as they are now: the machine is about to be built."""
    mounts = msgspec.convert(lease.image.mounts, type=tuple[Mount, ...])
    if lease.with_home:
        source = f"/dev/disk/by-id/virtio-{HOME_SERIAL}"
        mounts += (Mount(source=source, target=f"/home/{lease.image.default_user}", type="ext4"),)
    keys = SshKey.objects.filter(person=lease.owner_id).values_list("text", flat=True)
    return GuestOrder(
        hostname=lease.machine_name,
        user=lease.image.default_user,
        ssh_keys=tuple(keys),
        mounts=mounts,
    )


def is_understood(lease: Lease) -> bool:
    """Whether the program on its host has words for what the lease needs."""
    hosts = Host.objects.filter(gpus__holds__lease=lease)
    known: int = hosts.aggregate(oldest=Min("protocol"))["oldest"] or PROTOCOL
    return known >= PROTOCOL or is_said_in(provision(lease), known)


def release(lease: Lease) -> Release:
    gpus = _gpus(lease)
    saved = lease.snapshots.filter(state=SnapshotState.TAKING).select_related("pool").first()
    return Release(
        lease_id=lease.pk,
        gpus=tuple(_order(gpu) for gpu in gpus),
        shutdown_seconds=int(SHUTDOWN_PATIENCE.total_seconds()),
        scrub=scrub_policy(gpus[0].model),
        save=_order_of(saved, lease.host) if saved and lease.host else None,
    )


def power(lease: Lease, action: PowerAction) -> Power:
    return Power(lease_id=lease.pk, action=action, shutdown_seconds=int(SHUTDOWN_PATIENCE.total_seconds()))


def update(lease: Lease, ends_at: datetime) -> Update:
    return Update(lease_id=lease.pk, ends_at=ends_at)


def intake(gpu: Gpu) -> Intake:
    return Intake(gpu=_order(gpu, identity=False), scrub=scrub_policy(gpu.model))


def divide(gpu: Gpu, division: Division) -> Divide:
    return Divide(gpu=_order(gpu), profile=division.profile, count=division.count)


def undivide(gpu: Gpu) -> Undivide:
    return Undivide(gpu=_order(gpu))


def scrub_policy(model: GpuModel) -> ScrubPolicy:
    return ScrubPolicy(
        scrubber=model.scrub_methods[0],
        methods=tuple(model.scrub_methods),
        required_reach_permille=model.required_reach_permille,
        read_back=msgspec.convert(model.read_back, type=ReadBack),
    )


def _gpus(lease: Lease) -> list[Gpu]:
    return [hold.gpu for hold in lease.holds.select_related("gpu__model").order_by("gpu__address")]


def _order(gpu: Gpu, *, identity: bool = True) -> GpuOrder:
    known = identity and gpu.fingerprint
    return GpuOrder(
        gpu_id=gpu.pk,
        tenure=gpu.tenure,
        address=gpu.address,
        fingerprint=msgspec.convert(gpu.fingerprint, type=Fingerprint) if known else None,
    )
