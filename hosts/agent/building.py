"""From an order to a machine: its image, its scratch disk and its definition."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from uuid import UUID

from hosts.agent import disks
from hosts.agent.bus import Card
from hosts.agent.domain import Backing, DirectKernel, Disk, MachineSpec, Placement, UefiDisk, domain_xml
from hosts.agent.images import open_disk_image, open_kernel_image
from hosts.agent.rig import Rig
from hosts.protocol.messages import Provision

DISK_SUFFIX = ".qcow2"


def make_disk(rig: Rig, goal: Provision) -> None:
    """The lease's scratch disk, over its golden image if that is a disk, too."""
    disks.create_scratch(
        disk_path(rig, goal.lease_id),
        size_gib=goal.machine.disk_gib,
        backing=_backing(rig, goal),
        encrypted=rig.hypervisor.keeps_keys,
    )


def has_disk(rig: Rig, goal: Provision) -> bool:
    """Whether the disk is there; for a machine without one there is nothing to do."""
    return goal.machine.disk_gib == 0 or disk_path(rig, goal.lease_id).exists()


def destroy_disk(rig: Rig, lease_id: UUID) -> None:
    """Destroy the key, then the disk; and what the machine wrote on its serial port."""
    disks.destroy_scratch(disk_path(rig, lease_id))
    for log in rig.config.machines_directory.glob(f"{lease_id}.log*"):  # the hypervisor rotates them
        log.unlink()


def leases_with_disks(rig: Rig) -> set[UUID]:
    """The leases of which a disk, or a key, lies here."""
    found = set()
    for path in rig.config.disks_directory.glob(f"*{DISK_SUFFIX}*"):
        with suppress(ValueError):
            found.add(UUID(path.name.partition(".")[0]))
    return found


def disk_path(rig: Rig, lease_id: UUID) -> Path:
    return rig.config.disks_directory / f"{lease_id}{DISK_SUFFIX}"


def define_machine(rig: Rig, goal: Provision, *, generation: int) -> None:
    """Make the machine known to the hypervisor, its GPUs included."""
    cards = [rig.bus.card(order.address) for order in goal.gpus]
    fragments = [
        element
        for slot, card in enumerate(cards, start=1)
        for element in rig.bus.gpu_fragments(card, slot=slot)
    ]
    spec = _specification(rig, goal, generation=generation, placement=_placement(rig, cards))
    is_encrypted = spec.disk is not None and spec.disk.encrypted
    key = disks.read_key(disk_path(rig, goal.lease_id)) if is_encrypted else None
    rig.hypervisor.define(domain_xml(spec, fragments), disk_key=key)


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
        serial_log=serial_log,
        domain_type=rig.config.domain_type,
        placement=placement,
    )


def _boot(rig: Rig, goal: Provision) -> DirectKernel | UefiDisk:
    image = goal.machine.image
    if image.format == "direct-kernel":
        return open_kernel_image(
            rig.config.images_directory / image.name, image.digest, cmdline=image.cmdline
        )
    return UefiDisk(nvram=rig.config.machines_directory / f"{goal.lease_id}.nvram")


def _disk(rig: Rig, goal: Provision) -> Disk | None:
    if goal.machine.disk_gib == 0:
        return None
    return Disk(
        path=disk_path(rig, goal.lease_id),
        encrypted=rig.hypervisor.keeps_keys,
        backing=_backing(rig, goal),
    )


def _backing(rig: Rig, goal: Provision) -> Backing | None:
    image = goal.machine.image
    if image.format == "direct-kernel":
        return None
    path = rig.config.images_directory / f"{image.name}.{image.format}"
    return open_disk_image(path, image.format, image.digest)


def _placement(rig: Rig, cards: list[Card]) -> Placement:
    """Memory beside the GPUs, if all are on one known node. The nodes of simulated cards do not exist."""
    nodes = {card.numa_node for card in cards}
    if rig.bus.simulated or len(nodes) != 1 or -1 in nodes:
        return Placement()
    return Placement(numa_node=nodes.pop())


def _serial_log(rig: Rig, lease_id: UUID) -> Path:
    return rig.config.machines_directory / f"{lease_id}.log"
