"""The libvirt network of a lease, and the part of a machine's definition that joins it. Pure."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from lxml import etree

from hosts.agent.domain import QEMU_NAMESPACE, node
from hosts.agent.network.lanes import BRIDGE_PREFIX, Lane

NAME_PREFIX = "leasehold-"
DNSMASQ_NAMESPACE = "http://libvirt.org/schemas/network/dnsmasq/1.0"
# QEMU's name for the network of a machine that has one of QEMU's own; and its place on the root bus, which
# libvirt fills from the other end.
NETDEV = "lease-net"
SLOT = "0x1c"


def network_name(lease_id: UUID) -> str:
    return f"{NAME_PREFIX}{lease_id}"


def lease_of_network(name: str) -> UUID | None:
    """Whose it is, if it is one of ours."""
    with suppress(ValueError):
        if name.startswith(NAME_PREFIX):
            return UUID(name.removeprefix(NAME_PREFIX))
    return None


def network_xml(lane: Lane, resolvers: tuple[str, ...]) -> str:
    """A bridge with one address to give away. `open`: libvirt adds nothing of its own to packet filters."""
    given = node("range", start=str(lane.address), end=str(lane.address))
    machine = node("host", mac=lane.mac, ip=str(lane.address))
    netmask = str(lane.subnet.netmask)
    network = etree.Element("network", nsmap={"dnsmasq": DNSMASQ_NAMESPACE})
    network.extend(
        [
            node("name", network_name(lane.lease_id)),
            node("forward", mode="open"),
            node("bridge", name=lane.bridge, stp="off", delay="0"),
            node("dns", enable="no"),
            node("ip", node("dhcp", given, machine), address=str(lane.gateway), netmask=netmask),
        ]
    )
    if resolvers:
        options = etree.SubElement(network, f"{{{DNSMASQ_NAMESPACE}}}options")
        value = f"dhcp-option=option:dns-server,{','.join(resolvers)}"
        etree.SubElement(options, f"{{{DNSMASQ_NAMESPACE}}}option", value=value)
    return etree.tostring(network, pretty_print=True, encoding="unicode")


def bridge_number(bridge: str) -> int | None:
    """The lane's number, from the name of its bridge."""
    number = bridge.removeprefix(BRIDGE_PREFIX)
    return int(number) if number != bridge and number.isdecimal() else None


def bridged_interface(lane: Lane) -> etree._Element:
    """Goes under `<devices>`."""
    return node(
        "interface",
        node("mac", address=lane.mac),
        node("source", network=network_name(lane.lease_id)),
        node("model", type="virtio"),
        node("rom", enabled="no"),
        type="network",
    )


def user_interface(lane: Lane, address: str) -> etree._Element:
    """Goes under `<domain>`: libvirt has no words to restrict QEMU's network, nor to forward ports.

    `restrict`: the guest reaches neither its host nor anything beyond; who is forwarded to it is answered.
    """
    forwards = "".join(f",hostfwd=tcp:{address}:{port}-:{inside}" for port, inside in lane.forwards)
    words = (
        ("-netdev", f"user,id={NETDEV},restrict=on{forwards}"),
        ("-device", f"virtio-net-pci,netdev={NETDEV},mac={lane.mac},bus=pcie.0,addr={SLOT},romfile="),
    )
    line = etree.Element(f"{{{QEMU_NAMESPACE}}}commandline", nsmap={"qemu": QEMU_NAMESPACE})
    for word in (word for pair in words for word in pair):
        etree.SubElement(line, f"{{{QEMU_NAMESPACE}}}arg", value=word)
    return line
