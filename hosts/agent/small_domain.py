"""The domain XML of small machines that work for the host: a kernel, a channel, what they work on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

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

VCPUS = 1


@dataclass(frozen=True)
class SmallMachine:
    """`purpose` is an element of the metadata, with its attributes. One purpose, one identity."""

    name: str
    purpose: tuple[str, dict[str, str]]
    memory_mib: int
    boot: DirectKernel
    channel: str
    serial_log: Path
    domain_type: DomainType = "kvm"


def small_machine_xml(machine: SmallMachine, fragments: Sequence[etree._Element]) -> str:
    """The whole domain. Beside the fragments it has no disk, no network, no display: nobody to reach."""
    tag, about = machine.purpose
    identity = uuid5(NAMESPACE_OID, " ".join((NAMESPACE, *about.values())))
    domain = node(
        "domain",
        node("name", machine.name),
        node("uuid", str(identity)),
        node("metadata", etree.Element(f"{{{NAMESPACE}}}{tag}", about, nsmap={"leasehold": NAMESPACE})),
        node("memory", str(machine.memory_mib), unit="MiB"),
        node("vcpu", str(VCPUS), placement="static"),
        os_element(machine.boot),
        node("features", node("acpi"), node("apic")),
        cpu_element(machine.domain_type, VCPUS),
        node("clock", offset="utc"),
        node("on_poweroff", "destroy"),
        node("on_reboot", "destroy"),
        node("on_crash", "destroy"),
        node("devices", *_devices(machine), *fragments),
        type=machine.domain_type,
    )
    return etree.tostring(domain, pretty_print=True, encoding="unicode")


def _devices(machine: SmallMachine) -> Iterator[etree._Element]:
    yield node("controller", type="usb", model="none")
    yield serial_element(machine.serial_log)
    yield node("channel", node("target", type="virtio", name=machine.channel), type="unix")
    yield node("memballoon", model="none")
