"""Reads back what the host program needs to know from a domain's XML, its own or a stranger's."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from lxml import etree

from hosts.agent.domain import NAMESPACE
from hosts.agent.machines import MachineFacts, MachineState

PARSER = etree.XMLParser(resolve_entities=False, no_network=True)
PASSED_THROUGH = ("devices/hostdev/source/address", "devices/interface[@type='hostdev']/source/address")


def parse(xml: str) -> etree._Element:
    return etree.fromstring(xml, PARSER)


def machine_name(xml: str) -> str:
    return parse(xml).findtext("name", "")


def read_facts(xml: str, state: MachineState) -> MachineFacts:
    domain = parse(xml)
    lease = domain.find(f"metadata/{{{NAMESPACE}}}lease")
    scrub = domain.find(f"metadata/{{{NAMESPACE}}}scrub")
    return MachineFacts(
        name=domain.findtext("name", ""),
        uuid=UUID(domain.findtext("uuid", "")),
        state=state,
        lease_id=None if lease is None else UUID(lease.get("id", "")),
        generation=None if lease is None else int(lease.get("generation", "0")),
        pci_addresses=frozenset(_pci_addresses(domain)),
        scrubs="" if scrub is None else scrub.get("address", ""),
    )


def _pci_addresses(domain: etree._Element) -> list[str]:
    """USB and SCSI devices have source addresses too, but no slot."""
    addresses = [address for path in PASSED_THROUGH for address in domain.findall(path)]
    return [_pci_address(address) for address in addresses if address.get("slot")]


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
