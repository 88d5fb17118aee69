"""What accepting each kind of goal writes into the journal: checks that can refuse it, records and plans.

All of it runs inside the one transaction that accepts the command.
"""

from __future__ import annotations

from uuid import UUID

from hosts.agent.disks import DiskError
from hosts.agent.divisions import division_of
from hosts.agent.home_steps import open_pool
from hosts.agent.plans import gpu_lock, lease_lock, machine_locks
from hosts.agent.records import MachineRecord
from hosts.agent.rig import Rig
from hosts.agent.spool import Origin
from hosts.protocol.messages import (
    Divide,
    Goal,
    GpuOrder,
    HoldImages,
    Inspect,
    Intake,
    OpenConsole,
    Power,
    Provision,
    ReadHome,
    Release,
    RemoveHome,
    RemoveSnapshot,
    TakeSnapshot,
    Undivide,
    Update,
)


class Refusal(Exception):
    """The goal is refused and changes nothing; the text says why. If `final`, sending it again is in vain."""

    final = True


class TooLate(Refusal):
    """The message is too old to be believed; a fresh one of the same command is welcome."""

    final = False


def take_goal(rig: Rig, goal: Goal, origin: Origin) -> None:
    """Write down what has to be done for the goal, or raise Refusal."""
    match goal:
        case Provision():
            _take_provision(rig, goal, origin)
        case Release():
            _take_release(rig, goal, origin)
        case Power():
            _take_power(rig, goal, origin)
        case Update():
            rig.machines.set_end(_kept_machine(rig, goal.lease_id).lease_id, goal.ends_at)
        case OpenConsole() | ReadHome():
            _take_visit(rig, goal)
        case Intake():
            _take_intake(rig, goal, origin)
        case HoldImages():
            rig.copies.want(goal)
        case Divide() | Undivide():
            _take_division(rig, goal, origin)
        case Inspect() | TakeSnapshot() | RemoveHome() | RemoveSnapshot():
            _take_plain(rig, goal, origin)
        case _:
            raise Refusal(f"A {type(goal).__name__} is not carried out here.")


def _take_plain(rig: Rig, goal: Inspect | TakeSnapshot | RemoveHome | RemoveSnapshot, origin: Origin) -> None:
    """Plans that are called as their goals are. Nobody switches a machine on while its disk is copied."""
    lease_id, locks = None, set()
    if isinstance(goal, TakeSnapshot):
        lease_id = _kept_machine(rig, goal.lease_id).lease_id
        locks = {lease_lock(lease_id)}
    rig.plans.add(str(goal.__struct_config__.tag), goal, origin, lease_id=lease_id, locks=locks)


def _take_provision(rig: Rig, goal: Provision, origin: Origin) -> None:
    for gpu in goal.gpus:
        _check_tenure(rig, gpu)
    machine = rig.machines.get(goal.lease_id)
    if machine is not None and machine.state in ("releasing", "gone"):
        raise Refusal("This lease was released here before.")
    rig.machines.plan(goal, origin)
    rig.plans.add(
        "provision", goal, origin, lease_id=goal.lease_id, locks=machine_locks(goal.lease_id, goal.gpus)
    )


def _take_release(rig: Rig, goal: Release, origin: Origin) -> None:
    for gpu in goal.gpus:
        _check_tenure(rig, gpu)
        _check_not_leased(rig, gpu, to_other_than=goal.lease_id)
    rig.plans.supersede(goal.lease_id)
    rig.machines.begin_release(goal.lease_id, origin)
    locks = machine_locks(goal.lease_id, goal.gpus)
    rig.plans.add("release", goal, origin, lease_id=goal.lease_id, locks=locks)
    for gpu in goal.gpus:
        scrub = Intake(gpu=gpu, scrub=goal.scrub)
        rig.plans.add("scrub", scrub, origin, lease_id=goal.lease_id, locks={gpu_lock(gpu.address)})


def _take_power(rig: Rig, goal: Power, origin: Origin) -> None:
    machine = _kept_machine(rig, goal.lease_id)
    gpus = machine.provision.gpus if machine.provision else ()
    if not gpus and goal.action != "off":
        raise Refusal("What this machine was built from is not known here; it can only be stopped.")
    rig.machines.set_desired(goal.lease_id, "off" if goal.action == "off" else "on")
    rig.plans.add(
        f"power-{goal.action}", goal, origin, lease_id=goal.lease_id, locks=machine_locks(goal.lease_id, gpus)
    )


def _take_visit(rig: Rig, goal: OpenConsole | ReadHome) -> None:
    """Of a reading nothing outlives the program, so nothing is written down."""
    if isinstance(goal, ReadHome):
        if not rig.config.reads_homes:
            raise Refusal("This host has no system to read home volumes with.")
        try:
            open_pool(rig.config, goal.pool)
        except DiskError as error:
            raise Refusal(str(error)) from error
        return
    if _kept_machine(rig, goal.lease_id).state != "on":
        raise Refusal("The machine of this lease does not run.")
    if not rig.consoles.begin(goal.session_id, goal.lease_id):
        raise Refusal("This console session was opened before.")


def _take_intake(rig: Rig, goal: Intake, origin: Origin) -> None:
    _check_tenure(rig, goal.gpu)
    _check_not_leased(rig, goal.gpu, to_other_than=None)
    rig.gpus.put(goal.gpu, "dirty", lease_id=None)
    rig.plans.add("intake", goal, origin, lease_id=None, locks={gpu_lock(goal.gpu.address)})


def _take_division(rig: Rig, goal: Divide | Undivide, origin: Origin) -> None:
    """Nothing else may be done meanwhile with the card, or with any slice that it has."""
    _check_tenure(rig, goal.gpu)
    _check_not_leased(rig, goal.gpu, to_other_than=None)
    division = division_of(rig, goal.gpu.address)
    slices = division.slices if division else ()
    for gpu in rig.gpus.all():
        if gpu.address in slices and gpu.is_leased_to_another(None):
            raise Refusal(f"GPU {gpu.gpu_id} is leased to {gpu.lease_id}.")
    locks = {gpu_lock(address) for address in (goal.gpu.address, *slices)}
    kind = "divide" if isinstance(goal, Divide) else "undivide"
    rig.plans.add(kind, goal, origin, lease_id=None, locks=locks)


def _check_tenure(rig: Rig, order: GpuOrder) -> None:
    gpu = rig.gpus.get(order.gpu_id)
    if gpu is not None and order.tenure < gpu.tenure:
        raise Refusal(f"GPU {order.gpu_id} is at tenure {gpu.tenure}; the command is about {order.tenure}.")


def _check_not_leased(rig: Rig, order: GpuOrder, *, to_other_than: UUID | None) -> None:
    for gpu in (rig.gpus.get(order.gpu_id), *rig.gpus.at(order.address)):
        if gpu is not None and gpu.is_leased_to_another(to_other_than):
            raise Refusal(f"GPU {gpu.gpu_id} is leased to {gpu.lease_id}.")


def _kept_machine(rig: Rig, lease_id: UUID) -> MachineRecord:
    machine = rig.machines.get(lease_id)
    if machine is None or machine.state in ("releasing", "gone"):
        raise Refusal("There is no machine of this lease here.")
    return machine
