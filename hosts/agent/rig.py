"""Everything that plans work with, in one place: the journal's tables, the hardware and the hypervisor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from hosts.agent.bus import PciBus
from hosts.agent.config import Config
from hosts.agent.hardware import Hardware
from hosts.agent.journal import Journal
from hosts.agent.machines import MachineFacts, MachineHost
from hosts.agent.plans import Plans
from hosts.agent.records import Consoles, Gpus, Machines
from hosts.agent.scrubbers import Installed
from hosts.agent.spool import Clock, Spool
from hosts.protocol.signing import Signer


@dataclass(frozen=True)
class Rig:
    """The host worker's parts. `close_consoles` ends every console of a lease before it returns."""

    config: Config
    clock: Clock
    journal: Journal
    spool: Spool
    plans: Plans
    gpus: Gpus
    machines: Machines
    consoles: Consoles
    bus: PciBus
    hypervisor: MachineHost
    scrubbers: Mapping[str, Installed]
    close_consoles: Callable[[UUID], None]

    def find_machine(self, lease_id: UUID) -> MachineFacts | None:
        """The lease's machine as the hypervisor knows it."""
        found = (facts for facts in self.hypervisor.machines() if facts.lease_id == lease_id)
        return next(found, None)


def make_rig(
    *,
    config: Config,
    clock: Clock,
    journal: Journal,
    signer: Signer,
    hardware: Hardware,
    close_consoles: Callable[[UUID], None],
) -> Rig:
    """A rig around an open journal."""
    return Rig(
        config=config,
        clock=clock,
        journal=journal,
        spool=Spool(journal, signer=signer, host=config.host, clock=clock),
        plans=Plans(journal),
        gpus=Gpus(journal),
        machines=Machines(journal),
        consoles=Consoles(journal),
        bus=hardware.bus,
        hypervisor=hardware.hypervisor,
        scrubbers=hardware.scrubbers,
        close_consoles=close_consoles,
    )
