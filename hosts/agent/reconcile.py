"""Before anything is offered or carried out: compare the journal with hypervisor, disks and bus.

What explains itself goes on. What does not is scrubbed if it is a GPU, stopped and removed if it is a machine
of ours, and left alone if it is somebody else's; `mending` does that, at the start and from then on.
"""

from __future__ import annotations

import logging

from hosts.agent.bus import BusError
from hosts.agent.divisions import look_at_divisions
from hosts.agent.inventory import take_inventory
from hosts.agent.machines import HypervisorError, MachineFacts, MachineState
from hosts.agent.mending import mend
from hosts.agent.proven import begin_boot
from hosts.agent.records import MachineRecord
from hosts.agent.rig import Rig
from hosts.agent.scrub_machine import remove_scrub_machines
from hosts.agent.scrubbing import INTAKE, SCRUB
from hosts.agent.vigil import bring_back, note_stop, report_lost_gpus
from hosts.protocol.messages import ConsoleClosed

log = logging.getLogger(__name__)


def reconcile(rig: Rig, *, boot_id: str) -> None:
    """Make the journal and the host agree, then report what there is."""
    begin_boot(rig, boot_id)
    _recover_bus(rig)
    _remove_scrub_machines(rig)
    slices = look_at_divisions(rig)
    with rig.journal.transaction():
        known_boot = rig.journal.recall("boot_id")
    rebooted = known_boot not in (None, boot_id)
    if rebooted:
        _begin_scrubs_anew(rig)
    if known_boot is None:  # also if an earlier attempt to do this was cut short
        _adopt_machines(rig)
    for machine in rig.machines.kept():
        _settle_machine(rig, machine, rebooted=rebooted)
    report_lost_gpus(rig)
    mend(rig, slices)
    _close_consoles(rig)
    inventory = take_inventory(rig, restarted=True)
    with rig.journal.transaction():
        rig.journal.remember("boot_id", boot_id)
        rig.journal.remember("host", rig.config.host)
        rig.spool.add(inventory, rig.spool.host_origin)


def _recover_bus(rig: Rig) -> None:
    try:
        rig.bus.recover()
    except BusError:
        log.exception("The bus is not as it was before the worker was killed")


def _remove_scrub_machines(rig: Rig) -> None:
    """A scrub that was cut short begins anew, with a machine of its own."""
    try:
        for name in remove_scrub_machines(rig.hypervisor):
            log.warning("Removed %s, which an earlier worker had started", name)
    except HypervisorError:
        log.exception("A scrub machine could not be removed")


def _begin_scrubs_anew(rig: Rig) -> None:
    """What a card was seen to be before the host was booted says nothing about it now."""
    for plan in rig.plans.open():
        if plan.kind in (SCRUB.name, INTAKE.name):
            rig.plans.begin_anew(plan.plan_id)


def _ours(rig: Rig) -> list[MachineFacts]:
    return [facts for facts in rig.hypervisor.machines() if facts.lease_id is not None]


def _adopt_machines(rig: Rig) -> None:
    """The journal was lost or never was: what runs is kept until the portal has looked at it."""
    for facts in _ours(rig):
        if facts.lease_id is not None:
            log.warning("Adopted machine %s, of which the journal knows nothing", facts.name)
            rig.machines.adopt(facts.lease_id, state="on" if facts.is_active else "off")


def _settle_machine(rig: Rig, machine: MachineRecord, *, rebooted: bool) -> None:
    """Go on where the journal stands. Plans that are open bring their machine to its goal themselves.

    A machine whose release failed waits for another one, whether it runs or not.
    """
    if machine.state == "releasing" or rig.plans.of_lease(machine.lease_id):
        return
    facts = rig.find_machine(machine.lease_id)
    if facts is not None and facts.is_active:
        rig.machines.set_state(machine.lease_id, "on")
    elif machine.state == "suspended" or (machine.state == "on" and rebooted):
        bring_back(rig, machine)
    elif machine.state == "on":
        _note_stop(rig, machine, facts)


def _note_stop(rig: Rig, machine: MachineRecord, facts: MachineFacts | None) -> None:
    """It stopped while this program was away and the host was not: its user's wish, unless QEMU says else."""
    by_guest = facts is not None and facts.state is MachineState.OFF
    note_stop(rig, machine, cause="guest" if by_guest else "failure")


def _close_consoles(rig: Rig) -> None:
    """No relay outlives the program."""
    for session_id, lease_id in rig.consoles.open_sessions():
        with rig.journal.transaction():
            rig.consoles.end(session_id)
            closed = ConsoleClosed(session_id=session_id, reason="The host's worker was restarted.")
            rig.spool.add(closed, rig.spool.origin_of(f"lease:{lease_id}"))
