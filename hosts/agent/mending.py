"""Compares what is with what should be, mends what is ours to mend, and notes what was found.

A GPU that something else has had is scrubbed again before it is offered. What belongs to somebody else is
left alone, and so is what a plan is at work on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from uuid import UUID

from hosts.agent import building
from hosts.agent.boot import running_kernel
from hosts.agent.disks import DiskError
from hosts.agent.divisions import look_at_divisions
from hosts.agent.doctor import verdicts
from hosts.agent.drift import (
    Difference,
    Doubtful,
    ForeignUse,
    Hang,
    HostUse,
    LostMachine,
    Seen,
    StrayDisk,
    StrayMachine,
    StrayNetwork,
    StrayScrubMachine,
    Written,
    differences,
)
from hosts.agent.drift_notes import hang_of, note_differences, seen
from hosts.agent.machines import HypervisorError, MachineFacts
from hosts.agent.network import connecting
from hosts.agent.network.ways import NetworkError
from hosts.agent.orders import OrderRefused, order
from hosts.agent.plans import gpu_lock
from hosts.agent.proven import recall_proven, this_boot
from hosts.agent.reading_desk import end_left_readings
from hosts.agent.records import GpuRecord
from hosts.agent.rig import Rig
from hosts.agent.small_machine import remove_small_machine
from hosts.protocol.checkup import Check, Verdict
from hosts.protocol.messages import GpuFailed

log = logging.getLogger(__name__)

BY = "leasehold-host"
STEP = "reconcile"
_REASONS = {
    "restarted": "The host was started anew; its kernel was %(before)s, and is %(kernel)s.",
    "came-back": "The card was off the bus and came back.",
    "unexplained": "It was %(state)s, and nothing on the host explained it.",
}


def mend(rig: Rig, earlier: Sequence[Check] = ()) -> None:
    """Look once, and mend what is not in order. BusError or HypervisorError if that cannot be seen.

    What was found `earlier` in the same round is told with it.
    """
    slices = (*earlier, *look_at_divisions(rig))
    _end_left_readings(rig)
    seen = _look(rig)
    found = [_mend(rig, each) for each in differences(seen, _read(rig))]
    note_differences(rig, (*slices, *found, *_guard(rig)))


def _end_left_readings(rig: Rig) -> None:
    try:
        end_left_readings(rig)
    except (DiskError, HypervisorError):
        log.exception("What was being read could not be let go")


def _look(rig: Rig) -> Seen:
    gpus = rig.gpus.all()
    return Seen(
        machines=rig.hypervisor.machines(),
        disks=building.leases_with_disks(rig),
        networks={*rig.network.present(), *(lane.lease_id for lane in rig.lanes.all())},
        host_drivers={gpu.address: rig.bus.host_drivers(gpu.address) for gpu in gpus},
        hanging=rig.bus.hanging(),
        incarnations={gpu.address: rig.bus.incarnation(gpu.address) for gpu in gpus},
        boot=this_boot(rig),
        kernel=running_kernel(),
    )


def _read(rig: Rig) -> Written:
    with rig.journal.transaction():
        gpus = rig.gpus.all()
        known = {gpu.gpu_id: recall_proven(rig, gpu.gpu_id) for gpu in gpus}
        proven = {gpu_id: each for gpu_id, each in known.items() if each}
        return Written(rig.machines.kept(), gpus, rig.plans.open(), proven)


def _mend(rig: Rig, difference: Difference) -> Check:
    match difference:
        case StrayMachine(facts):
            check = _remove_machine(rig, facts)
        case StrayScrubMachine(facts):
            check = _remove_small_machine(rig, facts)
        case StrayDisk(lease_id):
            check = _destroy_disk(rig, lease_id)
        case StrayNetwork(lease_id):
            check = _remove_network(rig, lease_id)
        case LostMachine(record):
            check = _found("lost-machine", "lost", "fail", lease=record.lease_id, state=record.state)
        case ForeignUse(gpu, facts):
            check = _give_up(rig, gpu, facts)
        case HostUse():
            check = _take_back(rig, difference)
        case Doubtful():
            check = _doubt(rig, difference)
        case Hang(address):
            check = hang_of(address)
    log.warning("Found %s: %s %s", check.code, check.outcome, {"subject": check.subject, **check.facts})
    return check


def _remove_machine(rig: Rig, facts: MachineFacts) -> Check:
    """Whatever GPUs it has cannot be clean. One that does not go is left for the operator."""
    told = {"machine": facts.name, "lease": str(facts.lease_id)}
    try:
        rig.hypervisor.destroy(facts.name)
        rig.hypervisor.undefine(facts.name)
    except HypervisorError as error:
        return _found("stray-machine", "left", "fail", **told, reason=error)
    finally:
        for gpu in rig.gpus.all():
            if gpu.address in facts.pci_addresses and gpu.state == "clean":
                _scrub_again(rig, gpu, f"The machine {facts.name}, which has no lease here, had it.")
    return _found("stray-machine", "removed", "warn", **told)


def _remove_small_machine(rig: Rig, facts: MachineFacts) -> Check:
    try:
        remove_small_machine(rig.hypervisor, facts.name)
    except HypervisorError as error:
        return _found("stray-scrub-machine", "left", "fail", facts.scrubs, machine=facts.name, reason=error)
    return _found("stray-scrub-machine", "removed", "warn", facts.scrubs, machine=facts.name)


def _destroy_disk(rig: Rig, lease_id: UUID) -> Check:
    try:
        building.destroy_disks(rig, lease_id)
    except (DiskError, OSError) as error:
        return _found("stray-disk", "left", "fail", lease=lease_id, reason=error)
    return _found("stray-disk", "destroyed", "warn", lease=lease_id)


def _remove_network(rig: Rig, lease_id: UUID) -> Check:
    try:
        connecting.disconnect(rig, lease_id)
    except (NetworkError, HypervisorError) as error:
        return _found("stray-network", "left", "fail", lease=lease_id, reason=error)
    return _found("stray-network", "removed", "warn", lease=lease_id)


def _guard(rig: Rig) -> Iterator[Check]:
    """What machines reach, and who reaches them, is as the journal says, whoever has changed it."""
    try:
        if connecting.admit(rig):
            yield _found("packet-filter", "restored", "warn")
    except (NetworkError, HypervisorError) as error:
        yield _found("packet-filter", "left", "fail", reason=error)


def _give_up(rig: Rig, gpu: GpuRecord, facts: MachineFacts) -> Check:
    """The machine is not ours to stop. The GPU is quarantined, and only the portal lets it back.

    A plan that is under way finds it dirty, and fails.
    """
    if _is_planned(rig, gpu):
        _make_dirty(rig, gpu)
        return _found("foreign-use", "planned", "fail", gpu.address, machine=facts.name)
    if gpu.state not in ("quarantined", "missing"):
        _quarantine(rig, gpu, f"The machine {facts.name}, which is not Leasehold's, runs with it.")
    return _found("foreign-use", "quarantined", "fail", gpu.address, machine=facts.name)


def _take_back(rig: Rig, use: HostUse) -> Check:
    """A tenant's is bound again when its machine starts, and scrubbed at its release as ever. A plan that was
    about to hand it over finds it dirty, and fails."""
    gpu, drivers = use.gpu, ", ".join(use.drivers)
    if use.handed_over:
        _make_dirty(rig, gpu)
        return _found("host-use", "planned", "fail", gpu.address, drivers=drivers)
    if gpu.state == "leased":
        return _found("host-use", "leased", "warn", gpu.address, drivers=drivers)
    if refusal := _scrub_again(rig, gpu, f"{drivers} had it."):
        return _found("host-use", "quarantined", "fail", gpu.address, drivers=drivers, reason=refusal)
    return _found("host-use", "scrubbed", "warn", gpu.address, drivers=drivers)


def _doubt(rig: Rig, doubtful: Doubtful) -> Check:
    gpu, why, facts = doubtful.gpu, doubtful.why, doubtful.facts
    if refusal := _scrub_again(rig, gpu, _REASONS[why] % facts):
        return _found(why, "quarantined", "fail", gpu.address, reason=refusal, **facts)
    return _found(why, "scrubbed", "warn", gpu.address, **facts)


def _scrub_again(rig: Rig, gpu: GpuRecord, reason: str) -> str:
    """Unknown is not clean. Quarantined, with the reason, if it is not known how it is scrubbed.

    If a plan is at work on it, that finds it dirty and decides. Each way is written at once, so that no crash
    leaves a dirty GPU of which the portal has not heard.
    """
    try:
        order(rig, "scrub", gpu.address, by=BY, reason=reason, doubted=gpu)
    except OrderRefused as refusal:
        if _is_planned(rig, gpu):
            _make_dirty(rig, gpu)
            return ""
        if rig.gpus.get(gpu.gpu_id) != gpu:
            return ""
        _quarantine(rig, gpu, str(refusal))
        return str(refusal)
    return ""


def _make_dirty(rig: Rig, gpu: GpuRecord) -> None:
    """Unless something else has become of it since it was looked at."""
    with rig.journal.transaction():
        if rig.gpus.get(gpu.gpu_id) == gpu and gpu.state in ("clean", "leased", "scrubbing"):
            rig.gpus.set_state(gpu.gpu_id, "dirty")


def _is_planned(rig: Rig, gpu: GpuRecord) -> bool:
    return any(gpu_lock(gpu.address) in plan.locks for plan in rig.plans.open())


def _quarantine(rig: Rig, gpu: GpuRecord, reason: str) -> None:
    failed = GpuFailed(gpu_id=gpu.gpu_id, tenure=gpu.tenure, step=STEP, reason=reason[:2000])
    with rig.journal.transaction():
        rig.gpus.set_state(gpu.gpu_id, "quarantined")
        rig.spool.add(failed, rig.spool.origin_of(f"gpu:{gpu.gpu_id}"))


def _found(code: str, outcome: str, verdict: Verdict, subject: str = "", **facts: object) -> Check:
    return verdicts.found(verdict, code, outcome, seen(code, subject, facts), subject=subject, **facts)
