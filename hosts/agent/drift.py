"""Where what is differs from what should be. Pure: what was seen and what the journal says go in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from hosts.agent.machines import MachineFacts
from hosts.agent.plans import Plan, gpu_lock, lease_lock
from hosts.agent.proven import Proven
from hosts.agent.records import GpuRecord, MachineRecord


@dataclass(frozen=True)
class Seen:
    """What was there: machines, the leases whose disks and networks are here, the host's drivers of cards.

    `incarnations` has each card's; `boot` and `kernel` are those of the host now.
    """

    machines: Sequence[MachineFacts]
    disks: Collection[UUID]
    networks: Collection[UUID]
    host_drivers: Mapping[str, Sequence[str]]
    hanging: Collection[str]
    incarnations: Mapping[str, str] = field(default_factory=dict)
    boot: str = ""
    kernel: str = ""


@dataclass(frozen=True)
class Written:
    """What the journal said, later than all of `Seen`: what was begun meanwhile is in it."""

    machines: Sequence[MachineRecord]
    gpus: Sequence[GpuRecord]
    plans: Sequence[Plan]
    proven: Mapping[UUID, Proven] = field(default_factory=dict)

    def is_planned(self, lock: str) -> bool:
        return any(lock in plan.locks for plan in self.plans)

    def is_being_handed_over(self, gpu: GpuRecord) -> bool:
        """Whether a machine is being built that shall have it: no tenant has used it since its scrub."""
        lock = gpu_lock(gpu.address)
        return any(plan.kind == "provision" and lock in plan.locks for plan in self.plans)


@dataclass(frozen=True)
class StrayMachine:
    """A machine of ours, for a lease that is not here."""

    facts: MachineFacts


@dataclass(frozen=True)
class StrayScrubMachine:
    """A scrub machine of which the scrub is over."""

    facts: MachineFacts


@dataclass(frozen=True)
class StrayDisk:
    """A disk, or its key, of a lease that is not here."""

    lease_id: UUID


@dataclass(frozen=True)
class StrayNetwork:
    """A network of a lease that is not here."""

    lease_id: UUID


@dataclass(frozen=True)
class LostMachine:
    """A machine that should be here, running or not, and that the hypervisor does not know."""

    record: MachineRecord


@dataclass(frozen=True)
class ForeignUse:
    """Somebody else's machine runs with one of our GPUs."""

    gpu: GpuRecord
    facts: MachineFacts


@dataclass(frozen=True)
class HostUse:
    """Drivers of the host have one of our GPUs, which no plan has let go; `handed_over` says that a plan is
    about to give it to a tenant."""

    gpu: GpuRecord
    drivers: Sequence[str]
    handed_over: bool


@dataclass(frozen=True)
class Doubtful:
    """A GPU that is not known to be clean any more.

    `why`: it is leased to no machine here, or scrubbed by no plan (unexplained); it was proven clean before
    the host was started anew (restarted); it was off the bus meanwhile (came-back). `facts` go with it.
    """

    gpu: GpuRecord
    why: Literal["unexplained", "restarted", "came-back"]
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hang:
    """The kernel hangs in a card."""

    address: str


Difference = (
    StrayMachine
    | StrayScrubMachine
    | StrayDisk
    | StrayNetwork
    | LostMachine
    | ForeignUse
    | HostUse
    | Doubtful
    | Hang
)


def differences(seen: Seen, written: Written) -> Iterator[Difference]:
    """Everything that is not as it should be. What a plan is at work on is that plan's business, unless
    somebody else has meanwhile used what it thinks is clean."""
    yield from (Hang(address) for address in sorted(seen.hanging))
    yield from _of_machines(seen, written)
    for gpu in written.gpus:
        yield from _of_gpu(gpu, seen, written)


def _of_machines(seen: Seen, written: Written) -> Iterator[Difference]:
    kept = {record.lease_id for record in written.machines}
    known = {facts.lease_id for facts in seen.machines}
    for facts in sorted(seen.machines, key=lambda each: each.name):
        if facts.lease_id is not None and facts.lease_id not in kept:
            yield StrayMachine(facts)
        if facts.scrubs and not written.is_planned(gpu_lock(facts.scrubs)):
            yield StrayScrubMachine(facts)
    yield from (StrayNetwork(lease_id) for lease_id in sorted(seen.networks) if lease_id not in kept)
    yield from (StrayDisk(lease_id) for lease_id in sorted(seen.disks) if lease_id not in kept)
    for record in written.machines:
        settled = record.state != "releasing" and not written.is_planned(lease_lock(record.lease_id))
        if settled and record.lease_id not in known:
            yield LostMachine(record)


def _of_gpu(gpu: GpuRecord, seen: Seen, written: Written) -> Iterator[Difference]:
    for facts in seen.machines:
        is_ours = facts.lease_id is not None or facts.scrubs
        if not is_ours and facts.is_active and gpu.address in facts.pci_addresses:
            yield ForeignUse(gpu, facts)
    planned = written.is_planned(gpu_lock(gpu.address))
    handed_over = gpu.state == "leased" and written.is_being_handed_over(gpu)
    drivers = seen.host_drivers.get(gpu.address, ())
    if drivers and (gpu.state == "clean" or handed_over or (gpu.state == "leased" and not planned)):
        yield HostUse(gpu, drivers, handed_over)
    elif gpu.state == "clean":
        yield from _of_clean_gpu(gpu, seen, written.proven.get(gpu.gpu_id))
    here = {record.lease_id for record in written.machines}
    if planned:
        return
    if gpu.state == "scrubbing" or (gpu.state == "leased" and gpu.lease_id not in here):
        yield Doubtful(gpu, "unexplained", {"state": gpu.state})


def _of_clean_gpu(gpu: GpuRecord, seen: Seen, proven: Proven | None) -> Iterator[Difference]:
    """What was proven holds for one boot, and for as long as the card stays on the bus."""
    if proven is None:
        return
    if proven.boot != seen.boot:
        yield Doubtful(gpu, "restarted", {"before": proven.kernel, "kernel": seen.kernel})
    elif seen.incarnations.get(gpu.address) not in (None, "", proven.incarnation):
        yield Doubtful(gpu, "came-back")
