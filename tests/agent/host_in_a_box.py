"""A whole host without a broker: a worker's parts on a simulated bus, and the other side of the wire."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from nacl.public import PrivateKey
from nacl.signing import SigningKey

from hosts.agent.acceptance import Acceptance
from hosts.agent.config import Config
from hosts.agent.doctor.reader import Reader
from hosts.agent.executor import Executor
from hosts.agent.hardware import Hardware
from hosts.agent.host_plans import PLAN_KINDS
from hosts.agent.journal import Journal
from hosts.agent.network.settings import NetworkSettings
from hosts.agent.network.ways import BridgedNetwork, Network
from hosts.agent.reconcile import reconcile
from hosts.agent.rig import Rig, make_rig, open_books
from hosts.agent.runner import Boundary
from hosts.agent.scrub_machine import MachineRoom, MachineScrubber
from hosts.agent.scrubbers import Installed, load_scrubbers
from hosts.agent.simulated import SimulatedBus, demo_topology
from hosts.agent.spool import Origin
from hosts.protocol.codec import PROTOCOL, decode_report, encode
from hosts.protocol.messages import (
    Command,
    Event,
    Goal,
    GpuOrder,
    ImageOrder,
    Intake,
    MachineOrder,
    OpenConsole,
    Provision,
    ReadHome,
    Release,
    Report,
    ScrubPolicy,
)
from hosts.protocol.signing import COMMAND, REPORT, Signer, Verifier, key_id, public_hex
from tests.agent.fake_appliance import write_appliance
from tests.agent.fake_filter import FakeFilter
from tests.agent.fake_machines import FakeMachines
from tools.pace import slowness

E = TypeVar("E")
HOST = "box"
MIB = 1 << 20
SETTLE_SECONDS = 20.0 * slowness()


def wait_for(condition: Callable[[], object], *, seconds: float = SETTLE_SECONDS) -> None:
    """Until the condition holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "The condition did not come true in time."
        time.sleep(0.01)


@dataclass
class Control:
    """The other side: it signs commands. `generations` maps a subject to its latest."""

    key: SigningKey = field(default_factory=SigningKey.generate)
    generations: dict[str, int] = field(default_factory=dict)

    def command(self, goal: Goal, *, subject: str, **changes: Any) -> Command:
        generation = self.generations[subject] = self.generations.get(subject, 0) + 1
        now = datetime.now(UTC)
        fields: dict[str, Any] = {
            "protocol": PROTOCOL,
            "command_id": uuid4(),
            "host": HOST,
            "subject": subject,
            "generation": generation,
            "issued_at": now,
            "expires_at": now + timedelta(minutes=1),
            "goal": goal,
        }
        return Command(**(fields | changes))

    def sign(self, command: Command) -> str:
        return Signer(self.key, COMMAND).sign(encode(command))

    def envelope(self, goal: Goal, *, subject: str, **changes: Any) -> str:
        return self.sign(self.command(goal, subject=subject, **changes))


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


class Box:
    """One host. `restart` forgets everything but the journal, the bus, the disks and the hypervisor."""

    def __init__(self, directory: Path, *, on_boundary: Boundary = lambda _: None, **settings: Any) -> None:
        self.directory = directory
        self.control = Control()
        self.signing = SigningKey.generate()
        self.sealing = PrivateKey.generate()
        self.now = datetime.now(UTC)
        self.boot_id = "first boot"
        self.image = write_image(directory / "images")
        self.bus_directory = directory / "bus"
        self.machines = self.make_machines()
        self.filter = self.make_filter()
        self.closed_leases: list[UUID] = []
        self.consoles: list[tuple[OpenConsole, Origin]] = []
        self.readings: list[tuple[ReadHome, Origin]] = []
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

    def open(self, on_boundary: Boundary = lambda _: None) -> None:
        """Assemble the worker's parts around the journal, without starting anything."""
        hardware = Hardware(
            bus=self.make_bus(),
            hypervisor=self.machines,
            scrubbers={**load_scrubbers(), "machine": self.scrub_machine()},
            reader=Reader(self.directory / "kernel"),
            network=self.make_network(),
        )
        books = open_books(
            config=self.config,
            clock=lambda: self.now,
            journal=self.make_journal(),
            signer=Signer(self.signing, REPORT),
        )
        self.rig: Rig = make_rig(books, hardware, close_consoles=self.closed_leases.append)
        keys = {key_id(self.control.key.verify_key): self.control.key.verify_key}
        self.acceptance = Acceptance(
            self.rig,
            Verifier(keys, COMMAND),
            open_console=lambda goal, origin: self.consoles.append((goal, origin)),
            read_home=lambda goal, origin: self.readings.append((goal, origin)),
        )
        self.executor = Executor(self.rig, PLAN_KINDS, on_boundary=on_boundary)

    def make_machines(self) -> FakeMachines:
        return FakeMachines(self.directory)

    def make_filter(self) -> FakeFilter:
        return FakeFilter()

    def make_network(self) -> Network:
        return BridgedNetwork(self.config.network, self.machines, nft=self.filter)

    def make_bus(self) -> SimulatedBus:
        return SimulatedBus(self.bus_directory, demo_topology(MIB))

    def make_journal(self) -> Journal:
        return Journal(self.config.journal_path)

    def scrub_machine(self) -> Installed:
        """A scrubber whose machine does what `machines.appliance` does."""
        image = write_appliance(self.directory / "appliance")
        room = MachineRoom(self.machines, "qemu", self.config.machines_directory)
        return Installed(MachineScrubber("machine", image, room), image.digest)

    def start(self) -> None:
        reconcile(self.rig, boot_id=self.boot_id)
        self.executor.start()

    def close(self) -> None:
        self.executor.stop(seconds=SETTLE_SECONDS)
        self.rig.journal.close()

    def restart(self, on_boundary: Boundary = lambda _: None) -> None:
        self.close()
        self.open(on_boundary)
        self.start()

    def deliver(self, goal: Goal, *, subject: str, **changes: Any) -> str:
        """Sign and deliver a command as if it came off the queue; its envelope."""
        envelope = self.control.envelope(goal, subject=subject, **changes)
        self.acceptance.deliver(envelope)
        return envelope

    def settle(self) -> None:
        """Wait until no plan is open."""
        wait_for(lambda: not self.rig.plans.open())

    def carry_out(self, goal: Goal, *, subject: str, **changes: Any) -> None:
        self.deliver(goal, subject=subject, **changes)
        self.settle()

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

    def reports(self) -> list[Report]:
        """Everything in the spool, its signatures checked."""
        verifier = Verifier({key_id(self.signing.verify_key): self.signing.verify_key}, REPORT)
        stored = self.rig.spool.unreceipted(after=0, limit=10_000)
        return [decode_report(verifier.open(envelope)) for _, envelope in stored]

    def events(self, kind: type[E]) -> list[E]:
        return [report.event for report in self.reports() if isinstance(report.event, kind)]

    def last(self, kind: type[E]) -> E:
        return self.events(kind)[-1]


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
