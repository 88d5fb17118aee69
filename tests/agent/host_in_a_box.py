"""A whole host without a broker: a worker's parts on a simulated bus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from hosts.agent.config import Config
from hosts.agent.doctor.reader import Reader
from hosts.agent.hardware import Hardware
from hosts.agent.network.settings import NetworkSettings
from hosts.agent.network.ways import BridgedNetwork, Network
from hosts.agent.runner import Boundary
from hosts.agent.scrub_channel import Patience
from hosts.agent.scrub_machine import MachineRoom, MachineScrubber
from hosts.agent.scrubbers import Installed, load_scrubbers
from hosts.agent.simulated import SimulatedBus, demo_topology
from hosts.protocol.messages import (
    Event,
    GpuOrder,
    ImageOrder,
    Intake,
    MachineOrder,
    Provision,
    Release,
    ScrubPolicy,
)
from hosts.protocol.signing import public_hex
from tests.agent.fake_appliance import write_appliance
from tests.agent.fake_filter import FakeFilter
from tests.agent.fake_machines import FakeMachines
from tests.agent.worker_parts import HOST, Control, WorkerParts, wait_for

MIB = 1 << 20


def gpu_order(number: int = 0, *, tenure: int = 1) -> GpuOrder:
    """One of the simulated bus' four GPUs."""
    card = demo_topology()[number]
    return GpuOrder(gpu_id=UUID(int=0x6B0 + number), tenure=tenure, address=card.address)


def write_image(directory: Path, name: str = "tenant") -> ImageOrder:
    """An image that has the right form and could not boot."""
    folder = directory / name
    folder.mkdir(parents=True, exist_ok=True)
    files = {"vmlinux": b"kernel", "initrd.img": b"initramfs"}
    for file, data in files.items():
        (folder / file).write_bytes(data)
    digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    manifest = {"kernel": "vmlinux", "initrd": "initrd.img", "cmdline": "", "sha256": digests}
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    return ImageOrder(name=name, format="direct-kernel", digest=hashlib.sha256(text).hexdigest())


class Box(WorkerParts):
    """One host. `restart` forgets everything but the journal, the bus, the disks and the hypervisor.

    `scrub_patience` is what it has with scrub machines.
    """

    scrub_patience = Patience(whole=20, silence=5)

    def __init__(self, directory: Path, *, on_boundary: Boundary = lambda _: None, **settings: Any) -> None:
        super().__init__()
        self.directory = directory
        self.image = write_image(directory / "images")
        self.bus_directory = directory / "bus"
        self.machines = self.make_machines()
        self.filter = self.make_filter()
        self.config = Config(
            host=HOST,
            portal="https://portal.example",
            state_directory=directory / "state",
            broker_url="memory://",
            control_keys=(public_hex(self.control.key),),
            images_directory=directory / "images",
            domain_type="qemu",
            bus="simulated",
            bus_directory=self.bus_directory,
            **({"network": NetworkSettings(mode="bridge", address="box.example")} | settings),
        )
        self.open(on_boundary)

    def make_hardware(self) -> Hardware:
        return Hardware(
            bus=self.make_bus(),
            hypervisor=self.machines,
            scrubbers=self.make_scrubbers(),
            reader=Reader(self.directory / "kernel"),
            network=self.make_network(),
        )

    def make_machines(self) -> FakeMachines:
        return FakeMachines(self.directory)

    def make_filter(self) -> FakeFilter:
        return FakeFilter()

    def make_network(self) -> Network:
        return BridgedNetwork(self.config.network, self.machines, nft=self.filter)

    def make_bus(self) -> SimulatedBus:
        return SimulatedBus(self.bus_directory, demo_topology(MIB))

    def make_scrubbers(self) -> dict[str, Installed]:
        return {**load_scrubbers(), "machine": self.scrub_machine()}

    def scrub_machine(self) -> Installed:
        """A scrubber whose machine does what `machines.appliance` does."""
        image = write_appliance(self.directory / "appliance", patience=self.scrub_patience)
        room = MachineRoom(self.machines, "qemu", self.config.machines_directory)
        return Installed(MachineScrubber("machine", image, room), image.digest)

    def intake(self, number: int = 0, *, tenure: int = 1) -> GpuOrder:
        """A clean GPU, by way of a scrub."""
        order = gpu_order(number, tenure=tenure)
        self.carry_out(Intake(gpu=order, scrub=ScrubPolicy()), subject=f"gpu:{order.gpu_id}")
        assert self.gpu_state(number) == "clean"
        return order

    def provision(self, *gpus: GpuOrder, lease: int = 1, **changes: Any) -> Provision:
        machine = MachineOrder(name=f"lease-{lease}", vcpus=1, memory_mib=64, disk_gib=0, image=self.image)
        fields: dict[str, Any] = {
            "lease_id": UUID(int=lease),
            "ends_at": self.now + timedelta(hours=1),
            "grace_seconds": 60,
            "gpus": gpus or (gpu_order(),),
            "machine": machine,
        }
        return Provision(**(fields | changes))

    def release(self, *gpus: GpuOrder, lease: int = 1, **changes: Any) -> Release:
        fields: dict[str, Any] = {
            "lease_id": UUID(int=lease),
            "gpus": gpus or (gpu_order(),),
            "shutdown_seconds": 0,
            "scrub": ScrubPolicy(),
        }
        return Release(**(fields | changes))

    def gpu_state(self, number: int = 0) -> str | None:
        gpu = self.rig.gpus.get(gpu_order(number).gpu_id)
        return None if gpu is None else gpu.state


@contextmanager
def a_box(directory: Path, *, on_boundary: Boundary = lambda _: None, **settings: Any) -> Iterator[Box]:
    """A running host, configured by `settings`, that is stopped at the end."""
    box = Box(directory, on_boundary=on_boundary, **settings)
    box.start()
    try:
        yield box
    finally:
        box.close()


__all__ = ["HOST", "Box", "Control", "Event", "a_box", "gpu_order", "wait_for", "write_image"]
