"""What a scrub machine is: a small machine that has the card. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from hosts.agent.domain import DirectKernel, DomainType
from hosts.agent.small_domain import SmallMachine, small_machine_xml

CHANNEL = "org.leasehold.scrub"


@dataclass(frozen=True)
class ScrubMachineSpec:
    """A machine that scrubs the card at `address` (the host's)."""

    address: str
    memory_mib: int
    boot: DirectKernel
    serial_log: Path
    domain_type: DomainType = "kvm"

    @property
    def name(self) -> str:
        return machine_name(self.address)


def machine_name(address: str) -> str:
    """One card, one name: what an earlier scrub has left is found again."""
    return f"scrub-{address.replace(':', '-').replace('.', '-')}"


def scrub_machine_xml(spec: ScrubMachineSpec, gpu_fragments: Sequence[etree._Element]) -> str:
    """The whole domain."""
    machine = SmallMachine(
        name=spec.name,
        purpose=("scrub", {"address": spec.address}),
        memory_mib=spec.memory_mib,
        boot=spec.boot,
        channel=CHANNEL,
        serial_log=spec.serial_log,
        domain_type=spec.domain_type,
    )
    return small_machine_xml(machine, gpu_fragments)
