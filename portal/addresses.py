"""Whose address a request comes from, when proxies stand in between. Pure."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
# Stands for a proxy that comes in by a unix socket, and so has no address.
UNIX = "unix"


def networks(text: str) -> tuple[Network | str, ...]:
    """`10.0.0.0/8, 127.0.0.1, unix` as networks; ValueError for anything else."""
    parts = (part.strip() for part in text.split(","))
    return tuple(part if part == UNIX else ip_network(part) for part in parts if part)


def true_address(peer: str, forwarded: str, proxies: Collection[Network | str]) -> str:
    """The last address in the chain that no trusted proxy has.

    `forwarded` is X-Forwarded-For, which each proxy appends its own peer to: only what trusted ones have
    appended is believed, from the right.
    """
    address = peer
    hops = [hop.strip() for hop in forwarded.split(",")] if forwarded else []
    while hops and _is_trusted(address, proxies):
        known = _parsed(hops.pop())
        if known is None:
            break
        address = str(known)
    return address


def _is_trusted(address: str, proxies: Collection[Network | str]) -> bool:
    if not address:
        return UNIX in proxies
    known = _parsed(address)
    return known is not None and any(
        not isinstance(proxy, str) and known.version == proxy.version and known in proxy for proxy in proxies
    )


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
