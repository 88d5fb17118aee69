"""Everything that plans work with, in one place: the journal's tables, the hardware and the hypervisor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from hosts.agent.bus import PciBus
from hosts.agent.config import Config
from hosts.agent.copies import Copies
from hosts.agent.doctor.reader import Reader
from hosts.agent.gpu_errors import ErrorsTold
from hosts.agent.hardware import Hardware
from hosts.agent.journal import Journal
from hosts.agent.machines import MachineFacts, MachineHost
from hosts.agent.network.lanes import Lanes
from hosts.agent.network.ways import Network
from hosts.agent.plans import Plans
from hosts.agent.records import Consoles, Gpus, Machines
from hosts.agent.scrubbers import Installed
from hosts.agent.spool import Clock, Spool
from hosts.agent.use import Uses
from hosts.protocol.signing import Signer


@dataclass(frozen=True)
class Books:
    """What the host has in writing."""

    config: Config
    clock: Clock
    journal: Journal
    spool: Spool
    plans: Plans
    gpus: Gpus
    machines: Machines
    consoles: Consoles
    lanes: Lanes
    copies: Copies
    uses: Uses
    errors_told: ErrorsTold


@dataclass(frozen=True)
class Rig(Books):
    """The host worker's parts. `close_consoles` ends every console of a lease before it returns.

    `readings` are those that are going on.
    """

    bus: PciBus
    hypervisor: MachineHost
    scrubbers: Mapping[str, Installed]
    reader: Reader
    network: Network
    close_consoles: Callable[[UUID], None]
    readings: set[UUID] = field(default_factory=set)

    def find_machine(self, lease_id: UUID) -> MachineFacts | None:
        """The lease's machine as the hypervisor knows it."""
        found = (facts for facts in self.hypervisor.machines() if facts.lease_id == lease_id)
        return next(found, None)


def open_books(*, config: Config, clock: Clock, journal: Journal, signer: Signer) -> Books:
    """The tables of an open journal."""
    spool = Spool(journal, signer=signer, host=config.host, clock=clock)
    return Books(
        config=config,
        clock=clock,
        journal=journal,
        spool=spool,
        plans=Plans(journal, clock=clock),
        gpus=Gpus(journal),
        machines=Machines(journal),
        consoles=Consoles(journal),
        lanes=Lanes(journal, config.network),
        copies=Copies(journal, spool, host=config.host),
        uses=Uses(journal),
        errors_told=ErrorsTold(journal),
    )


def make_rig(books: Books, hardware: Hardware, *, close_consoles: Callable[[UUID], None]) -> Rig:
    """A rig around open books."""
    return Rig(
        **vars(books),
        bus=hardware.bus,
        hypervisor=hardware.hypervisor,
        scrubbers=hardware.scrubbers,
        reader=hardware.reader,
        network=hardware.network,
        close_consoles=close_consoles,
    )
