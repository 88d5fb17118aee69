"""What the operator of a hypervisor decides about its machines' network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hosts.protocol.fields import NetworkAddress

# Of each lease: as many addresses as its small subnet has, and as many of the host's ports.
SUBNET_BITS = 30
PORTS_EACH = 4

Cidr = Annotated[str, Meta(max_length=18)]
Port = Annotated[int, Meta(ge=1024, le=65535)]


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[network]` of `host.toml`.

    `mode`: none; `bridge`, a libvirt network per lease behind this program's packet filter; or `user`, QEMU's
    own, for the embedded driver: nothing is reached from inside. `address` is what people connect to.
    `addresses` are those of machines, `ports` the first and last that are forwarded to them. Machines reach
    no private, local or special address but `allowed`, and the name servers `dns`.
    """

    mode: Literal["none", "bridge", "user"] = "none"
    address: NetworkAddress = "127.0.0.1"
    addresses: Cidr = "172.29.0.0/16"
    ports: tuple[Port, Port] = (22000, 22999)
    allowed: Annotated[tuple[Cidr, ...], Meta(max_length=100)] = ()
    denied: Annotated[tuple[Cidr, ...], Meta(max_length=100)] = ()
    dns: Annotated[tuple[Cidr, ...], Meta(max_length=3)] = ()

    def __post_init__(self) -> None:
        for each in (self.addresses, *self.allowed, *self.denied):
            IPv4Network(each)
        for each in self.dns:
            IPv4Address(each)
        if self.range.prefixlen > SUBNET_BITS:
            raise ValueError("`addresses` of the network must hold at least four addresses")
        if self.ports[1] - self.ports[0] + 1 < PORTS_EACH:
            raise ValueError(f"`ports` of the network must be at least {PORTS_EACH}")

    @property
    def range(self) -> IPv4Network:
        return IPv4Network(self.addresses)

    @property
    def lanes(self) -> int:
        """How many leases find room."""
        return min(
            self.range.num_addresses >> (32 - SUBNET_BITS),
            (self.ports[1] - self.ports[0] + 1) // PORTS_EACH,
        )
