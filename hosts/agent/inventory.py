"""What the host has and what runs on it, as it is at this moment."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PackageNotFoundError, version

from hosts.agent import machines
from hosts.agent.machines import MachineState
from hosts.agent.rig import Rig
from hosts.protocol.messages import Inventory, MachineFacts

# So that the report fits into a message whatever else runs on the host.
FOREIGN_MACHINES_AT_MOST = 50
GIB = 1024**3
MIB = 1024**2


def take_inventory(rig: Rig, *, restarted: bool = False) -> Inventory:
    """Look at cards, machines and the host's size. BusError or HypervisorError if that is not possible."""
    return Inventory(
        cards=tuple(card.facts() for card in rig.bus.cards()),
        machines=_machines(rig),
        cpu_count=os.cpu_count() or 0,
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        disk_gib=shutil.disk_usage(rig.config.state_directory).total // GIB,
        kernel=os.uname().release,
        worker_version=worker_version(),
        simulated=rig.bus.simulated,
        restarted=restarted,
    )


def worker_version() -> str:
    """The installed wheel's version; a checkout that is not installed has none."""
    try:
        return version("leasehold-host")
    except PackageNotFoundError:
        return "source"


def _machines(rig: Rig) -> tuple[MachineFacts, ...]:
    found = sorted(rig.hypervisor.machines(), key=lambda facts: facts.name)
    ours = [facts for facts in found if facts.lease_id is not None]
    foreign = [facts for facts in found if facts.lease_id is None]
    return tuple(_facts(each) for each in (*ours, *foreign[:FOREIGN_MACHINES_AT_MOST]))


def _facts(facts: machines.MachineFacts) -> MachineFacts:
    active = facts.state in (MachineState.RUNNING, MachineState.PAUSED)
    return MachineFacts(name=facts.name[:200], state="running" if active else "off", lease_id=facts.lease_id)
