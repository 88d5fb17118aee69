"""The domain XML of a scrub machine: a kernel, a channel to the host, and the card. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_OID, UUID, uuid5

from lxml import etree

from hosts.agent.domain import (
    NAMESPACE,
    DirectKernel,
    DomainType,
    cpu_element,
    node,
    os_element,
    serial_element,
)

CHANNEL = "org.leasehold.scrub"
VCPUS = 1


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


def _uuid(address: str) -> UUID:
    return uuid5(NAMESPACE_OID, f"{NAMESPACE} {address}")


def scrub_machine_xml(spec: ScrubMachineSpec, gpu_fragments: Sequence[etree._Element]) -> str:
    """The whole domain. It has no disk, no network, no display: nothing to keep, nobody to reach."""
    domain = node(
        "domain",
        node("name", spec.name),
        node("uuid", str(_uuid(spec.address))),
        node("metadata", _purpose(spec.address)),
        node("memory", str(spec.memory_mib), unit="MiB"),
        node("vcpu", str(VCPUS), placement="static"),
        os_element(spec.boot),
        node("features", node("acpi"), node("apic")),
        cpu_element(spec.domain_type, VCPUS),
        node("clock", offset="utc"),
        node("on_poweroff", "destroy"),
        node("on_reboot", "destroy"),
        node("on_crash", "destroy"),
        node("devices", *_devices(spec), *gpu_fragments),
        type=spec.domain_type,
    )
    return etree.tostring(domain, pretty_print=True, encoding="unicode")


def _purpose(address: str) -> etree._Element:
    return etree.Element(f"{{{NAMESPACE}}}scrub", {"address": address}, nsmap={"leasehold": NAMESPACE})


def _devices(spec: ScrubMachineSpec) -> Iterator[etree._Element]:
    yield node("controller", type="usb", model="none")
    yield serial_element(spec.serial_log)
    yield node("channel", node("target", type="virtio", name=CHANNEL), type="unix")
    yield node("memballoon", model="none")
