"""From an order to a machine: its image, its disks and its definition."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from threading import Lock
from uuid import UUID

from lxml import etree

from hosts.agent import disks
from hosts.agent.bus import Card
from hosts.agent.domain import Backing, BiosDisk, Boot, Disk, MachineSpec, UefiDisk, domain_xml
from hosts.agent.fragments import show_rom
from hosts.agent.home_steps import (
    attach_home,
    has_home,
    home_disk,
    home_key,
    leases_with_home,
    let_go,
    open_pool,
    opened_key,
)
from hosts.agent.host_key import keep_host_key, read_host_key
from hosts.agent.images import open_disk_image, open_kernel_image, require_digest
from hosts.agent.layout import read_layout
from hosts.agent.machines import MachineFacts
from hosts.agent.network.connecting import access_of, interfaces
from hosts.agent.placing import ANYWHERE, Placement, place
from hosts.agent.rig import Rig
from hosts.agent.seed import write_seed
from hosts.agent.snapshots import Snapshots
from hosts.agent.turns import turn
from hosts.agent.usb import UsbDevice, choose, read_usb
from hosts.protocol.messages import Access, Provision

DISK_SUFFIX = ".qcow2"
SEED_SUFFIX = ".seed.iso"
HOST_KEY_SUFFIX = ".hostkey"
# What one machine is given must be in its definition before the next one chooses.
_CHOOSING = Lock()


def make_disks(rig: Rig, goal: Provision) -> None:
    """The lease's scratch disk, over its golden image if that is a disk, too; its home; and its seed."""
    attach_home(rig, goal)
    if goal.machine.disk_gib and not disk_path(rig, goal.lease_id).exists():
        disks.create_scratch(
            disk_path(rig, goal.lease_id),
            size_gib=goal.machine.disk_gib,
            backing=_backing(rig, goal),
            original=_original(rig, goal),
            encrypted=rig.hypervisor.keeps_keys,
        )
    if goal.machine.guest is not None:
        write_seed(
            _seed_path(rig, goal.lease_id),
            goal.machine.guest,
            instance=goal.lease_id,
            host_key=keep_host_key(_host_key_path(rig, goal.lease_id)),
        )


def has_disks(rig: Rig, goal: Provision) -> bool:
    """Whether they are there; a machine may have none."""
    has_scratch = goal.machine.disk_gib == 0 or disk_path(rig, goal.lease_id).exists()
    has_seed = goal.machine.guest is None or _seed_path(rig, goal.lease_id).exists()
    return has_scratch and has_seed and has_home(rig, goal)


def destroy_disks(rig: Rig, lease_id: UUID) -> None:
    """Let go of the home volume, then destroy the key, the disk, and whatever else the machine had."""
    let_go(rig, lease_id)
    disks.destroy_scratch(disk_path(rig, lease_id))
    for path in rig.config.machines_directory.glob(f"{lease_id}.*"):
        path.unlink()


def leases_with_disks(rig: Rig) -> set[UUID]:
    """The leases of which a disk, a key, a seed or a host key lies here, or that have a home volume."""
    found = leases_with_home(rig)
    disks_here = rig.config.disks_directory.glob(f"*{DISK_SUFFIX}*")
    seeds = (rig.config.machines_directory.glob(f"*{each}*") for each in (SEED_SUFFIX, HOST_KEY_SUFFIX))
    for path in (*disks_here, *chain.from_iterable(seeds)):
        with suppress(ValueError):
            found.add(UUID(path.name.partition(".")[0]))
    return found


def disk_path(rig: Rig, lease_id: UUID) -> Path:
    return rig.config.disks_directory / f"{lease_id}{DISK_SUFFIX}"


def define_machine(rig: Rig, goal: Provision, *, generation: int) -> None:
    """Make the machine known to the hypervisor, its GPUs included."""
    cards = [rig.bus.card(order.address) for order in goal.gpus]
    fragments = [
        element for slot, card in enumerate(cards, start=1) for element in _fragments(rig, card, slot)
    ]
    with turn(_CHOOSING):
        _define(rig, goal, cards, fragments, generation=generation)


def _define(
    rig: Rig, goal: Provision, cards: list[Card], fragments: list[etree._Element], *, generation: int
) -> None:
    others = [facts for facts in rig.hypervisor.machines() if facts.lease_id != goal.lease_id]
    spec = _specification(rig, goal, generation=generation, placement=_placement(rig, goal, cards, others))
    spec = replace(spec, usb=_usb(rig, goal, others))
    is_encrypted = spec.disk is not None and spec.disk.encrypted
    key = disks.read_key(disk_path(rig, goal.lease_id)) if is_encrypted else None
    devices, beside = interfaces(rig, goal.lease_id)
    xml = domain_xml(spec, [*devices, *fragments], beside=beside)
    rig.hypervisor.define(xml, disk_key=key, home_key=home_key(rig, goal))


def _fragments(rig: Rig, card: Card, slot: int) -> list[etree._Element]:
    """The card's part of the XML, with the ROM that the operator of this host wants it to have."""
    fragments = rig.bus.gpu_fragments(card, slot=slot)
    for rom in rig.config.roms:
        if rom.address == card.address:
            require_digest(rom.file, rom.sha256)
            show_rom(fragments, rom.file)
    return fragments


def _specification(rig: Rig, goal: Provision, *, generation: int, placement: Placement) -> MachineSpec:
    order = goal.machine
    serial_log = _serial_log(rig, goal.lease_id)
    serial_log.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    return MachineSpec(
        name=order.name,
        uuid=goal.lease_id,
        lease_id=goal.lease_id,
        generation=generation,
        vcpus=order.vcpus,
        memory_mib=order.memory_mib,
        boot=_boot(rig, goal),
        disk=_disk(rig, goal),
        home=home_disk(rig, goal),
        seed=_seed_path(rig, goal.lease_id) if order.guest else None,
        tpm=order.image.tpm,
        hides_hypervisor=order.image.hides_hypervisor,
        serial_log=serial_log,
        domain_type=rig.config.domain_type,
        placement=placement,
    )


def _boot(rig: Rig, goal: Provision) -> Boot:
    image = goal.machine.image
    if image.format == "direct-kernel":
        return open_kernel_image(
            rig.config.images_directory / image.name, image.digest, cmdline=image.cmdline
        )
    if image.firmware == "bios":
        return BiosDisk()
    nvram = rig.config.machines_directory / f"{goal.lease_id}.nvram"
    return UefiDisk(nvram=nvram, secure=image.firmware == "uefi-secure")


def _disk(rig: Rig, goal: Provision) -> Disk | None:
    if goal.machine.disk_gib == 0:
        return None
    return Disk(
        path=disk_path(rig, goal.lease_id),
        encrypted=rig.hypervisor.keeps_keys,
        backing=_backing(rig, goal),
    )


def _original(rig: Rig, goal: Provision) -> disks.Original | None:
    """The snapshot that the disk begins as."""
    order = goal.machine.snapshot
    if order is None:
        return None
    pool = open_pool(rig.config, order.pool)
    return Snapshots(pool).open(order.snapshot_id, opened_key(rig, order.sealed_key))


def _backing(rig: Rig, goal: Provision) -> Backing | None:
    """The golden image under the disk: a snapshot holds it already."""
    image = goal.machine.image
    if image.format == "direct-kernel" or goal.machine.snapshot is not None:
        return None
    path = rig.config.images_directory / f"{image.name}.{image.format}"
    return open_disk_image(path, image.format, image.digest)


def _placement(rig: Rig, goal: Provision, cards: list[Card], others: Iterable[MachineFacts]) -> Placement:
    """Beside the GPUs. The nodes of simulated cards do not exist."""
    if rig.bus.simulated:
        return ANYWHERE
    return place(
        read_layout(rig.reader),
        [facts.occupied for facts in others],
        gpu_nodes={card.numa_node for card in cards},
        vcpus=goal.machine.vcpus,
        memory_mib=goal.machine.memory_mib,
    )


def _usb(rig: Rig, goal: Provision, others: Iterable[MachineFacts]) -> tuple[UsbDevice, ...]:
    if not goal.machine.usb and not goal.machine.chosen_usb:
        return ()
    return choose(
        goal.machine.usb,
        named=goal.machine.chosen_usb,
        allowed=rig.config.usb_devices,
        present=read_usb(rig.reader),
        used={address for facts in others for address in facts.usb},
    )


def is_whole(rig: Rig, goal: Provision, facts: MachineFacts) -> bool:
    """Whether the USB devices of its definition are there: each plugging in gives them new numbers."""
    named = goal.machine.chosen_usb
    if not goal.machine.usb and not named:
        return True
    present = [device for device in read_usb(rig.reader) if device.address in facts.usb]
    wanted = [*goal.machine.usb, *(each.usb_id for each in named)]
    at_their_ports = {(each.usb_id, each.port) for each in named} <= {
        (device.usb_id, device.port) for device in present
    }
    return at_their_ports and sorted(device.usb_id for device in present) == sorted(wanted)


def _seed_path(rig: Rig, lease_id: UUID) -> Path:
    return rig.config.machines_directory / f"{lease_id}{SEED_SUFFIX}"


def access(rig: Rig, lease_id: UUID) -> Access | None:
    """How the machine is reached, and by which key it is known."""
    path = _host_key_path(rig, lease_id)
    return access_of(rig, lease_id, host_key=read_host_key(path).fingerprint if path.exists() else "")


def _host_key_path(rig: Rig, lease_id: UUID) -> Path:
    return rig.config.machines_directory / f"{lease_id}{HOST_KEY_SUFFIX}"


def _serial_log(rig: Rig, lease_id: UUID) -> Path:
    return rig.config.machines_directory / f"{lease_id}.log"
