"""Reads back what the host program needs to know from a domain's XML, its own or a stranger's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from lxml import etree

from hosts.agent.domain import NAMESPACE, QEMU_NAMESPACE
from hosts.agent.layout import parse_cpus
from hosts.agent.machines import MachineFacts, MachineState
from hosts.agent.placing import Occupied

PARSER = etree.XMLParser(resolve_entities=False, no_network=True)
# libvirt writes KiB and GiB whatever it was given; strangers' definitions are read as it writes them.
UNITS = {"b": 1, "bytes": 1, "KiB": 2**10, "k": 2**10, "MiB": 2**20, "M": 2**20, "GiB": 2**30, "G": 2**30}
PASSED_THROUGH = ("devices/hostdev/source/address", "devices/interface[@type='hostdev']/source/address")


def parse(xml: str) -> etree._Element:
    return etree.fromstring(xml, PARSER)


def machine_name(xml: str) -> str:
    return parse(xml).findtext("name", "")


def read_facts(xml: str, state: MachineState) -> MachineFacts:
    domain = parse(xml)
    lease = domain.find(f"metadata/{{{NAMESPACE}}}lease")
    scrub = domain.find(f"metadata/{{{NAMESPACE}}}scrub")
    reading = domain.find(f"metadata/{{{NAMESPACE}}}reading")
    return MachineFacts(
        name=domain.findtext("name", ""),
        uuid=UUID(domain.findtext("uuid", "")),
        state=state,
        lease_id=None if lease is None else UUID(lease.get("id", "")),
        generation=None if lease is None else int(lease.get("generation", "0")),
        pci_addresses=frozenset(_pci_addresses(domain)),
        scrubs="" if scrub is None else scrub.get("address", ""),
        reads=None if reading is None else UUID(reading.get("id", "")),
        occupied=_occupied(domain),
        usb=frozenset(_usb_addresses(domain)),
        run=int(domain.get("id", "0")),
    )


def _occupied(domain: etree._Element) -> Occupied:
    """CPUs that it shares with the whole host are not taken."""
    nodes, page = domain.find("numatune/memory"), domain.find("memoryBacking/hugepages/page")
    memory, pins = domain.find("memory"), domain.findall("cputune/vcpupin")
    return Occupied(
        cpus=frozenset(cpu for pin in pins for cpu in parse_cpus(pin.get("cpuset", ""))),
        nodes=frozenset() if nodes is None else frozenset(parse_cpus(nodes.get("nodeset", ""))),
        memory_mib=0 if memory is None else _bytes(memory.text, memory.get("unit", "KiB")) // 2**20,
        page_kib=0 if page is None else _bytes(page.get("size"), page.get("unit", "KiB")) // 2**10,
    )


def _bytes(number: str | None, unit: str) -> int:
    return int(number or "0") * UNITS.get(unit, 1)


def _usb_addresses(domain: etree._Element) -> Iterator[tuple[int, int]]:
    for address in domain.findall("devices/hostdev[@type='usb']/source/address"):
        yield int(address.get("bus", "0"), 0), int(address.get("device", "0"), 0)


def _pci_addresses(domain: etree._Element) -> list[str]:
    """USB and SCSI devices have source addresses too, but no slot; a mediated device has its UUID."""
    addresses = [address for path in PASSED_THROUGH for address in domain.findall(path)]
    mediated = domain.findall("devices/hostdev[@type='mdev']/source/address")
    return [
        *(_pci_address(address) for address in addresses if address.get("slot")),
        *(str(address.get("uuid")).lower() for address in mediated),
    ]


def _pci_address(address: etree._Element) -> str:
    domain, bus, slot, function = (
        int(address.get(key, "0"), 0) for key in ("domain", "bus", "slot", "function")
    )
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def read_console_socket(xml: str) -> Path | None:
    """The VNC server's socket, or None if the domain has none."""
    for listen in parse(xml).findall("devices/graphics[@type='vnc']/listen[@type='socket']"):
        if listen.get("socket"):
            return Path(str(listen.get("socket")))
    return None


def read_channel_socket(xml: str, channel: str) -> Path | None:
    """The socket behind a virtio-serial channel of that name, or None."""
    for each in parse(xml).findall("devices/channel[@type='unix']"):
        target, source = each.find("target"), each.find("source")
        if target is not None and source is not None and target.get("name") == channel and source.get("path"):
            return Path(str(source.get("path")))
    return None


def read_interfaces(xml: str) -> list[str] | None:
    """The host's ends of a running machine's interfaces; None if one of them cannot be watched."""
    domain = parse(xml)
    if domain.find(f"{{{QEMU_NAMESPACE}}}commandline") is not None:
        return None  # QEMU's own network has no end on the host
    targets = [interface.find("target") for interface in domain.findall("devices/interface")]
    names = [target.get("dev") for target in targets if target is not None]
    return [str(name) for name in names] if len(names) == len(targets) and all(names) else None
