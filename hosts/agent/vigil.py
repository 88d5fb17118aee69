"""What a host does and reports without being told: lost cards, stopped machines, leases that are over."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Literal

from hosts.agent.bus import BusError, CardMissing
from hosts.agent.held_cards import cards_in_use
from hosts.agent.machine_plans import StopCause
from hosts.agent.plans import gpu_lock, lease_lock, machine_locks
from hosts.agent.records import GpuRecord, MachineRecord
from hosts.agent.rig import Rig
from hosts.protocol.messages import GpuFailed, MachineStopped, Power
from hosts.protocol.proof import fingerprint_changes

log = logging.getLogger(__name__)

# A guest that overstays is asked for this long before it is switched off.
OVERDUE_SHUTDOWN_SECONDS = 60


def stop_overdue(rig: Rig, machine: MachineRecord) -> None:
    """Plan to stop a machine whose lease is over; nobody has released it in time."""
    log.warning("The lease %s is over and was not released: its machine is stopped", machine.lease_id)
    with rig.journal.transaction():
        rig.machines.set_desired(machine.lease_id, "off")
        _plan_power(rig, machine, "off", kind="deadline")


def overdue_machines(rig: Rig) -> list[MachineRecord]:
    """Those that run beyond the end of their lease and its grace, and that no plan is about to change.

    The hypervisor is asked: a start or a release that failed halfway may have left a machine running.
    """
    now = rig.clock()
    over = [machine for machine in rig.machines.kept() if machine.deadline and machine.deadline <= now]
    if not over:
        return []
    running = {facts.lease_id for facts in rig.hypervisor.machines() if facts.is_active}
    return [
        machine
        for machine in over
        if machine.lease_id in running and not _is_planned(rig, lease_lock(machine.lease_id))
    ]


def bring_back(rig: Rig, machine: MachineRecord) -> None:
    """Plan to start a machine that went down with the host or with this program, if it is still wanted."""
    if machine.deadline is not None and machine.deadline <= rig.clock():
        note_stop(rig, machine, cause="deadline")
    elif machine.desired == "on" and machine.provision is not None:
        _plan_power(rig, machine, "on", kind="resume")


def note_stop(rig: Rig, machine: MachineRecord, *, cause: StopCause) -> None:
    """A machine is off without a command. It stays off, across reboots too, until somebody wants it."""
    with rig.journal.transaction():
        rig.machines.set_state(machine.lease_id, "off")
        rig.machines.set_desired(machine.lease_id, "off")
        rig.spool.add(
            MachineStopped(lease_id=machine.lease_id, cause=cause), rig.spool.origin_of(machine.subject)
        )


def note_stops(rig: Rig, *, stopped_by_guest: Collection[str]) -> None:
    """Find machines that should run and do not; `stopped_by_guest` are names seen to shut themselves down."""
    expected = [machine for machine in rig.machines.kept() if _should_run(rig, machine)]
    found = {facts.lease_id: facts for facts in rig.hypervisor.machines()}
    for machine in expected:
        facts = found.get(machine.lease_id)
        if facts is not None and facts.is_active:
            continue
        by_guest = facts is not None and facts.name in stopped_by_guest
        with rig.journal.transaction():
            current = rig.machines.get(machine.lease_id)
            if current is not None and _should_run(rig, current):
                note_stop(rig, current, cause="guest" if by_guest else "failure")


def _should_run(rig: Rig, machine: MachineRecord) -> bool:
    """It was started, and no plan is about to stop it."""
    return machine.state == "on" and not _is_planned(rig, lease_lock(machine.lease_id))


def report_lost_gpus(rig: Rig) -> None:
    """Cards that are gone from the bus, and clean cards that are no longer the same."""
    used = cards_in_use(rig)
    for gpu in rig.gpus.all():
        if gpu.state in ("missing", "quarantined") or _is_planned(rig, gpu_lock(gpu.address)):
            continue
        if gpu.address in used:
            _check_presence(rig, gpu)
        else:
            _check_gpu(rig, gpu)


def _check_presence(rig: Rig, gpu: GpuRecord) -> None:
    """All that can be seen of a card in use without touching it."""
    if not rig.bus.incarnation(gpu.address):
        _lose(rig, gpu, f"{gpu.address} is gone from the bus.", missing=True)


def _check_gpu(rig: Rig, gpu: GpuRecord) -> None:
    try:
        card = rig.bus.card(gpu.address)
    except CardMissing as error:
        _lose(rig, gpu, str(error), missing=True)
        return
    except BusError as error:
        log.warning("GPU %s could not be looked at: %s", gpu.address, error)
        return
    changed = fingerprint_changes(gpu.fingerprint or card.fingerprint, card.fingerprint)
    if gpu.state == "clean" and changed:
        _lose(rig, gpu, f"{', '.join(changed)} changed.", missing=False)


def _lose(rig: Rig, gpu: GpuRecord, reason: str, *, missing: bool) -> None:
    log.error("GPU %s is lost: %s", gpu.address, reason)
    failed = GpuFailed(
        gpu_id=gpu.gpu_id, tenure=gpu.tenure, step="watch", reason=reason[:2000], missing=missing
    )
    with rig.journal.transaction():
        if _is_planned(rig, gpu_lock(gpu.address)):
            return  # a reset that takes the card off the bus has begun meanwhile
        rig.gpus.set_state(gpu.gpu_id, "missing" if missing else "quarantined")
        rig.spool.add(failed, rig.spool.origin_of(f"gpu:{gpu.gpu_id}"))


def _is_planned(rig: Rig, lock: str) -> bool:
    return any(lock in plan.locks for plan in rig.plans.open())


def _plan_power(rig: Rig, machine: MachineRecord, action: Literal["on", "off"], *, kind: str) -> None:
    goal = Power(lease_id=machine.lease_id, action=action, shutdown_seconds=OVERDUE_SHUTDOWN_SECONDS)
    gpus = machine.provision.gpus if machine.provision else ()
    rig.plans.add(
        kind,
        goal,
        rig.spool.origin_of(machine.subject),
        lease_id=machine.lease_id,
        locks=machine_locks(machine.lease_id, gpus),
    )
