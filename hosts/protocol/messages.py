"""Every message between the control plane and a host, as bounded, immutable, typed structures.

A *command* states a whole goal for one host. A *report* states one fact the host has seen. `codec` turns both
into JSON and back. What a later protocol version adds is marked so: see `fields.Message`.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from hosts.protocol.checkup import CheckUp as CheckUp
from hosts.protocol.evidence import Fingerprint as Fingerprint
from hosts.protocol.evidence import GpuOrder as GpuOrder
from hosts.protocol.evidence import MethodRecord as MethodRecord
from hosts.protocol.evidence import ResetRecord as ResetRecord
from hosts.protocol.evidence import ScrubEvidence as ScrubEvidence
from hosts.protocol.evidence import ScrubPolicy as ScrubPolicy
from hosts.protocol.evidence import Witness as Witness
from hosts.protocol.fields import (
    CardAddress,
    Count,
    Counter,
    Message,
    Moment,
    Name,
    NetworkAddress,
    PciAddress,
    Short,
    Subject,
    TcpPort,
    Text,
)
from hosts.protocol.guests import GuestError as GuestError
from hosts.protocol.guests import GuestErrors as GuestErrors
from hosts.protocol.guests import GuestFacts as GuestFacts
from hosts.protocol.guests import Guests as Guests
from hosts.protocol.homes import HomeOrder as HomeOrder
from hosts.protocol.homes import HomeReport as HomeReport
from hosts.protocol.homes import ReadHome as ReadHome
from hosts.protocol.homes import RemoveHome as RemoveHome
from hosts.protocol.images import CopyFacts as CopyFacts
from hosts.protocol.images import HeldImage as HeldImage
from hosts.protocol.images import HoldImages as HoldImages
from hosts.protocol.images import ImageCopies as ImageCopies
from hosts.protocol.machine import GuestOrder as GuestOrder
from hosts.protocol.machine import ImageOrder as ImageOrder
from hosts.protocol.machine import MachineOrder as MachineOrder
from hosts.protocol.machine import Mount as Mount
from hosts.protocol.machine import NetworkOrder as NetworkOrder
from hosts.protocol.machine import UsbDevice as UsbDevice
from hosts.protocol.slices import Divide as Divide
from hosts.protocol.slices import Divided as Divided
from hosts.protocol.slices import DivisionEvent as DivisionEvent
from hosts.protocol.slices import DivisionFailed as DivisionFailed
from hosts.protocol.slices import SlicePart as SlicePart
from hosts.protocol.slices import SliceProfile as SliceProfile
from hosts.protocol.slices import Undivide as Undivide
from hosts.protocol.slices import Undivided as Undivided
from hosts.protocol.snapshots import RemoveSnapshot as RemoveSnapshot
from hosts.protocol.snapshots import SnapshotEvent as SnapshotEvent
from hosts.protocol.snapshots import SnapshotOrder as SnapshotOrder
from hosts.protocol.snapshots import TakeSnapshot as TakeSnapshot

Gpus = Annotated[tuple[GpuOrder, ...], Meta(min_length=1, max_length=16)]


class Provision(Message, frozen=True, kw_only=True, tag="provision"):
    """Bind the GPUs and run the machine until told otherwise, but never beyond `ends_at` plus the grace."""

    lease_id: UUID
    ends_at: Moment
    grace_seconds: Counter
    gpus: Gpus
    machine: MachineOrder


class Release(Message, frozen=True, kw_only=True, tag="release"):
    """Stop the machine, destroy its disk, then reset and scrub each GPU with evidence.

    `save`: before its disk is destroyed it is copied. If that fails, the release goes on.
    """

    ADDED = {"save": 2}
    ESSENTIAL = frozenset(ADDED)

    lease_id: UUID
    gpus: Gpus
    shutdown_seconds: Counter
    scrub: ScrubPolicy
    save: SnapshotOrder | None = None


class Power(Message, frozen=True, kw_only=True, tag="power"):
    """Switch a provisioned machine."""

    lease_id: UUID
    action: Literal["on", "off", "restart"]
    shutdown_seconds: Counter


class Update(Message, frozen=True, kw_only=True, tag="update"):
    """The lease now ends at `ends_at`."""

    lease_id: UUID
    ends_at: Moment


class OpenConsole(Message, frozen=True, kw_only=True, tag="console"):
    """Dial the gateway and relay this machine's console socket to it, once. The token is sealed."""

    lease_id: UUID
    session_id: UUID
    gateway_url: Annotated[str, Meta(max_length=300, pattern=r"^wss?://")]
    sealed_token: Annotated[str, Meta(max_length=500)]


class Intake(Message, frozen=True, kw_only=True, tag="intake"):
    """Bind, reset, scrub and fingerprint a GPU that is not known to be clean."""

    gpu: GpuOrder
    scrub: ScrubPolicy


class Inspect(Message, frozen=True, kw_only=True, tag="inspect"):
    """Report the inventory and what runs."""


class Receipt(Message, frozen=True, kw_only=True, tag="receipt"):
    """The portal has durably stored every report of this journal up to and including `through`."""

    journal_id: UUID
    through: Counter


Goal = (
    Provision
    | Release
    | Power
    | Update
    | OpenConsole
    | Intake
    | Divide
    | Undivide
    | Inspect
    | HoldImages
    | RemoveHome
    | ReadHome
    | TakeSnapshot
    | RemoveSnapshot
    | Receipt
)


class Command(Message, frozen=True, kw_only=True):
    """A goal for one host. Within a subject, a lower generation than one already accepted is refused.

    `journal_id` is the last journal that the portal has heard of from this host; with another one it refuses.
    """

    ADDED = {"journal_id": 2}

    protocol: int
    command_id: UUID
    host: Name
    subject: Subject
    generation: Counter
    issued_at: Moment
    expires_at: Moment
    goal: Goal
    journal_id: UUID | None = None


class CardDetails(Message, frozen=True, kw_only=True):
    """What else a host can read of a card; empty where it cannot, never guessed. None of it is identity.

    `board` is the subsystem by name. `vbios` and `driver_version` are as the card and the driver write them,
    `serial` is what the host's driver calls the card (a GPU UUID). `path` are the bridges above it, the root
    port first; `cpus` those near it, such as 0-15.
    """

    SINCE = 2

    board: Short = ""
    vbios: Short = ""
    serial: Short = ""
    driver: Short = ""
    driver_version: Short = ""
    link: Short = ""
    path: Annotated[tuple[PciAddress, ...], Meta(max_length=8)] = ()
    cpus: Short = ""


class CardFacts(Message, frozen=True, kw_only=True):
    """A display-class card, or a slice of one, as the host sees it.

    `refusal` says why it cannot be leased, empty if it can. A slice says whose `part` it is; a whole card how
    it can be divided.
    """

    ADDED = {"details": 2, "part": 2, "profiles": 2}

    address: CardAddress
    functions: tuple[CardAddress, ...]
    iommu_group: Count | None
    name: Short
    memory_bytes: Annotated[int, Meta(ge=0, le=2**50)]
    numa_node: Annotated[int, Meta(ge=-1, le=2**15 - 1)]
    fingerprint: Fingerprint
    refusal: Text = ""
    details: CardDetails = CardDetails()
    part: SlicePart | None = None
    profiles: Annotated[tuple[SliceProfile, ...], Meta(max_length=32)] = ()


class MachineFacts(Message, frozen=True, kw_only=True):
    """A machine that the hypervisor knows. `lease_id` is empty for machines that are not ours."""

    name: Short
    state: Literal["running", "off"]
    lease_id: UUID | None = None


class Accepted(Message, frozen=True, kw_only=True, tag="accepted"):
    """The command is journalled and will be carried out, across crashes."""


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """The command changed nothing, and why. `final` says that sending it again would not help."""

    reason: Text
    final: bool = True


class StepReport(Message, frozen=True, kw_only=True, tag="step"):
    """A step of a plan began, ended or failed. `index` counts from 1 to `total`."""

    lease_id: UUID | None
    gpu_id: UUID | None
    plan: Short
    step: Short
    index: Annotated[int, Meta(ge=0, le=2**15 - 1)]
    total: Annotated[int, Meta(ge=0, le=2**15 - 1)]
    state: Literal["started", "done", "failed"]
    attempt: Count
    detail: Text = ""


class Forward(Message, frozen=True, kw_only=True):
    """Whoever connects to `port` of the host's address is let through to port `inside` of the machine."""

    SINCE = 2

    port: TcpPort
    inside: TcpPort


class Access(Message, frozen=True, kw_only=True):
    """How the machine is reached. `host_key` is the SHA-256 by which its SSH server is known, if it is."""

    SINCE = 2

    address: NetworkAddress
    forwards: Annotated[tuple[Forward, ...], Meta(max_length=4)] = ()
    host_key: Annotated[str, Meta(max_length=60)] = ""


class MachineRunning(Message, frozen=True, kw_only=True, tag="machine-running"):
    """The machine of this lease runs. It is reached by its console alone where there is no `access`."""

    ADDED = {"access": 2}

    lease_id: UUID
    access: Access | None = None


class MachineStopped(Message, frozen=True, kw_only=True, tag="machine-stopped"):
    """The machine of this lease is off but its disk and GPUs are kept."""

    lease_id: UUID
    cause: Literal["guest", "command", "deadline", "failure"]


class MachineGone(Message, frozen=True, kw_only=True, tag="machine-gone"):
    """Machine, scratch disk and access of this lease no longer exist; scrubbing goes on."""

    lease_id: UUID


class ProvisionFailed(Message, frozen=True, kw_only=True, tag="provision-failed"):
    """The goal could not be reached; the host waits for a release."""

    lease_id: UUID
    step: Short
    reason: Text


class ScrubStarted(Message, frozen=True, kw_only=True, tag="scrub-started"):
    """The GPU is being reset and scrubbed."""

    gpu_id: UUID
    tenure: Counter


class Scrubbed(Message, frozen=True, kw_only=True, tag="scrubbed"):
    """The scrub of one GPU is over; the evidence carries the verdict."""

    gpu_id: UUID
    tenure: Counter
    lease_id: UUID | None
    evidence: ScrubEvidence


class GpuFailed(Message, frozen=True, kw_only=True, tag="gpu-failed"):
    """The GPU could not be brought to a scrub verdict at all: wedged, gone, or refused."""

    gpu_id: UUID
    tenure: Counter
    step: Short
    reason: Text
    missing: bool = False


class Ordered(Message, frozen=True, kw_only=True, tag="ordered"):
    """Somebody on the host has ordered this for a GPU that nobody uses; until it is over it is not clean.

    `reason` says why, where the host's program itself has ordered it.
    """

    SINCE = 2

    gpu_id: UUID
    tenure: Counter
    action: Literal["scrub", "reset"]
    by: Short
    reason: Text = ""


class GpuReset(Message, frozen=True, kw_only=True, tag="gpu-reset"):
    """The GPU was reset by order. That proves nothing about its memory: it stays dirty."""

    SINCE = 2

    gpu_id: UUID
    tenure: Counter
    record: ResetRecord


class ConsoleClosed(Message, frozen=True, kw_only=True, tag="console-closed"):
    """The relay of this console session has ended."""

    session_id: UUID
    reason: Short = ""


class Inventory(Message, frozen=True, kw_only=True, tag="inventory"):
    """What the host has: cards, machines, and the part that is shared among GPUs.

    `networks` are those of leases, `usb` the devices that machines may be given. `pool` is its pool of home
    volumes, empty if it has none, or not now; `reads_homes`: it can look into them.
    """

    ADDED = {"networks": 2, "usb": 2, "pool": 2, "reads_homes": 2}

    cards: tuple[CardFacts, ...]
    machines: tuple[MachineFacts, ...]
    cpu_count: Count
    memory_mib: Count
    disk_gib: Count
    kernel: Short
    worker_version: Short
    simulated: bool
    restarted: bool = False
    networks: Annotated[tuple[UUID, ...], Meta(max_length=1000)] = ()
    usb: Annotated[tuple[UsbDevice, ...], Meta(max_length=32)] = ()
    pool: Annotated[str, Meta(max_length=63, pattern=r"^([a-z0-9][a-z0-9.-]*)?\Z")] = ""
    reads_homes: bool = False


MachineEvent = MachineRunning | MachineStopped | MachineGone | ProvisionFailed
GpuEvent = ScrubStarted | Scrubbed | GpuFailed | Ordered | GpuReset
HostEvent = ConsoleClosed | Inventory | CheckUp | ImageCopies | Guests | GuestErrors | HomeReport
Event = Accepted | Refused | StepReport | MachineEvent | GpuEvent | DivisionEvent | HostEvent | SnapshotEvent


class Report(Message, frozen=True, kw_only=True):
    """One fact from one host. `sequence` counts from 1 in a journal; a new journal id means lost memory."""

    protocol: int
    host: Name
    journal_id: UUID
    sequence: Annotated[int, Meta(ge=1, le=2**53)]
    command_id: UUID | None
    subject: Subject
    generation: Counter
    occurred_at: Moment
    event: Event
