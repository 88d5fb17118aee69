"""What a host works on: its PCI bus, its hypervisor and its scrubbers, real or simulated as configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hosts.agent.bus import PciBus
from hosts.agent.config import Config, Settings
from hosts.agent.doctor.reader import Reader
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.machines import MachineHost
from hosts.agent.network.ways import Network, NoNetwork, open_network
from hosts.agent.scrub_machine import MachineRoom
from hosts.agent.scrubbers import Installed, load_scrubbers
from hosts.agent.simulated import SimulatedBus
from hosts.agent.slicing_bus import SlicingBus


@dataclass(frozen=True)
class Hardware:
    """The things that a test may replace. `reader` reads what else the kernel says of the host."""

    bus: PciBus
    hypervisor: MachineHost
    scrubbers: Mapping[str, Installed]
    reader: Reader = field(default_factory=Reader)
    network: Network = field(default_factory=NoNetwork)


def open_hardware(settings: Config) -> Hardware:
    """Connect to what the configuration names."""
    hypervisor = Hypervisor.open(settings.libvirt_uri)
    room = MachineRoom(hypervisor, settings.domain_type, settings.machines_directory)
    return Hardware(
        bus=open_bus(settings),
        hypervisor=hypervisor,
        scrubbers=load_scrubbers(settings.scrubbers, room),
        network=open_network(settings.network, hypervisor, broker_url=settings.broker_url),
    )


def open_bus(settings: Settings) -> PciBus:
    """The bus alone, which can be looked at without anything else."""
    if settings.bus_directory is not None and settings.bus == "simulated":
        return SimulatedBus(settings.bus_directory)
    return SlicingBus(accepted_risks=settings.accepted_risks)
