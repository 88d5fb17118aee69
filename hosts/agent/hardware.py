"""What a host works on: its PCI bus, its hypervisor and its scrubbers, real or simulated as configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hosts.agent.bus import PciBus
from hosts.agent.config import Config
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.machines import MachineHost
from hosts.agent.scrubbers import Installed, load_scrubbers
from hosts.agent.simulated import SimulatedBus
from hosts.agent.sysfs import SysfsBus


@dataclass(frozen=True)
class Hardware:
    """The three things that a test may replace."""

    bus: PciBus
    hypervisor: MachineHost
    scrubbers: Mapping[str, Installed]


def open_hardware(config: Config) -> Hardware:
    """Connect to what the configuration names."""
    return Hardware(
        bus=_open_bus(config),
        hypervisor=Hypervisor.open(config.libvirt_uri),
        scrubbers=load_scrubbers(config.scrubbers),
    )


def _open_bus(config: Config) -> PciBus:
    if config.bus_directory is not None and config.bus == "simulated":
        return SimulatedBus(config.bus_directory)
    return SysfsBus(accepted_risks=config.accepted_risks)
