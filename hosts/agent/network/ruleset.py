"""The packet filter around machines, as nft's JSON. Pure: settings and open lanes go in, all of it comes out.

One table of our own, replaced as a whole in one transaction. A verdict that drops is final whatever other
tables say; none of ours lets anything pass that another table drops.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Any

from hosts.agent.network.lanes import BRIDGE_PREFIX, Lane
from hosts.agent.network.settings import NetworkSettings

TABLE = "leasehold"
FAMILY = "inet"
ANY_BRIDGE = f"{BRIDGE_PREFIX}*"
# Before the filters of others (0), after connection tracking (-200).
PRIORITY = -10
# Whatever is allowed, nobody's machine reaches these: this host's own names for itself, the metadata
# services of clouds, everybody at once, and what is nobody's.
NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
# Private and special addresses (RFC 6890): a site's own services are there.
NOT_UNASKED = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
)

Json = dict[str, Any]
DROP: Json = {"drop": None}
ACCEPT: Json = {"accept": None}
# Said to the guest, so that its programs do not wait for an answer that will not come.
REJECT: Json = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
INTERFACE_IN: Json = {"meta": {"key": "iifname"}}
INTERFACE_OUT: Json = {"meta": {"key": "oifname"}}


def ruleset(settings: NetworkSettings, lanes: Collection[Lane], *, shunned: Collection[IPv4Address]) -> Json:
    """Replaces the table. No machine reaches `shunned`, the broker's addresses, whatever is allowed."""
    never = [settings.addresses, *NEVER, *(f"{address}/32" for address in shunned)]
    table = {"family": FAMILY, "name": TABLE}
    return {
        "nftables": [
            # To delete a table that may not be there, it is added first.
            {"add": {"table": table}},
            {"delete": {"table": table}},
            {"add": {"table": table}},
            _networks("never", never),
            _networks("allowed", settings.allowed),
            _networks("denied", [*NOT_UNASKED, *settings.denied]),
            _networks("resolvers", [f"{address}/32" for address in settings.dns]),
            _lanes([lane for lane in lanes if lane.is_open]),
            *(_chain(name) for name in ("from_machine", "to_machine", "to_host")),
            _chain("forward", type="filter", hook="forward", prio=PRIORITY, policy="accept"),
            _chain("input", type="filter", hook="input", prio=PRIORITY, policy="accept"),
            _chain("prerouting", type="nat", hook="prerouting", prio=-100, policy="accept"),
            _chain("postrouting", type="nat", hook="postrouting", prio=100, policy="accept"),
            *_forward(),
            *_from_machine(),
            *_to_machine(),
            *_to_host(),
            *_forwarded_ports(lane for lane in lanes if lane.is_open),
            _rule(
                "postrouting",
                _from_subnets(settings),
                _is_not(INTERFACE_OUT, ANY_BRIDGE),
                {"masquerade": None},
            ),
        ]
    }


def no_ruleset() -> Json:
    """Removes the table."""
    table = {"family": FAMILY, "name": TABLE}
    return {"nftables": [{"add": {"table": table}}, {"delete": {"table": table}}]}


def _forward() -> Iterable[Json]:
    yield _rule("forward", _is(INTERFACE_IN, ANY_BRIDGE), {"goto": {"target": "from_machine"}})
    yield _rule("forward", _is(INTERFACE_OUT, ANY_BRIDGE), {"goto": {"target": "to_machine"}})


def _from_machine() -> Iterable[Json]:
    """First whether it is who it says it is, and its lane is open; then where to."""
    chain = "from_machine"
    yield _rule(chain, _is_not({"meta": {"key": "nfproto"}}, "ipv4"), DROP)
    own = {"concat": [INTERFACE_IN, _field("ip", "saddr")]}
    yield _rule(chain, _is_not(own, "@lanes"), DROP)
    yield _rule(chain, _is(INTERFACE_OUT, ANY_BRIDGE), REJECT)
    # Whoever came in by a forwarded port is answered, wherever they are.
    yield _rule(chain, _state("established", "related"), ACCEPT)
    destination = _field("ip", "daddr")
    yield _rule(chain, _is(destination, "@never"), REJECT)
    for protocol in ("udp", "tcp"):
        yield _rule(chain, _is(destination, "@resolvers"), _is(_field(protocol, "dport"), 53), ACCEPT)
    yield _rule(chain, _is(destination, "@allowed"), ACCEPT)
    yield _rule(chain, _is(destination, "@denied"), REJECT)
    yield _rule(chain, ACCEPT)


def _to_machine() -> Iterable[Json]:
    """Answers, and what came by a forwarded port; nobody on the site's network finds another way in."""
    chain = "to_machine"
    yield _rule(chain, _is_not({"meta": {"key": "nfproto"}}, "ipv4"), DROP)
    own = {"concat": [INTERFACE_OUT, _field("ip", "daddr")]}
    yield _rule(chain, _is_not(own, "@lanes"), DROP)
    yield _rule(chain, _state("established", "related"), ACCEPT)
    yield _rule(chain, {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}, ACCEPT)
    yield _rule(chain, DROP)


def _to_host() -> Iterable[Json]:
    """A machine asks this host for its address, and for nothing else; its SSH server answers when asked."""
    yield _rule("input", _is(INTERFACE_IN, ANY_BRIDGE), {"goto": {"target": "to_host"}})
    yield _rule("to_host", _is_not({"meta": {"key": "nfproto"}}, "ipv4"), DROP)
    asks = (_is(_field("udp", "sport"), 68), _is(_field("udp", "dport"), 67))
    yield _rule("to_host", *asks, ACCEPT)
    yield _rule("to_host", _is(_field("tcp", "sport"), 22), _state("established"), ACCEPT)
    yield _rule("to_host", REJECT)


def _forwarded_ports(lanes: Iterable[Lane]) -> Iterable[Json]:
    """Of this host's own addresses, and not for machines."""
    for lane in lanes:
        for port, inside in lane.forwards:
            yield _rule(
                "prerouting",
                _is_not(INTERFACE_IN, ANY_BRIDGE),
                _is({"fib": {"result": "type", "flags": ["daddr"]}}, "local"),
                _is(_field("tcp", "dport"), port),
                {"dnat": {"family": "ip", "addr": str(lane.address), "port": inside}},
            )


def _from_subnets(settings: NetworkSettings) -> Json:
    network = settings.range
    prefix = {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
    return _is(_field("ip", "saddr"), prefix)


def _networks(name: str, networks: Iterable[str]) -> Json:
    return _set(name, "ipv4_addr", [*_collapsed(tuple(networks))], flags=["interval"])


@lru_cache(maxsize=64)
def _collapsed(networks: tuple[str, ...]) -> tuple[Json | str, ...]:
    """They are those of the host's settings and of the broker: few different ones are ever asked for."""
    return tuple(
        {"prefix": {"addr": str(each.network_address), "len": each.prefixlen}}
        if each.prefixlen < 32
        else str(each.network_address)
        for each in collapse_addresses(map(IPv4Network, networks))
    )


def _lanes(lanes: Iterable[Lane]) -> Json:
    elements = [{"concat": [lane.bridge, str(lane.address)]} for lane in lanes]
    return _set("lanes", ["ifname", "ipv4_addr"], elements)


def _set(name: str, type: str | list[str], elements: list[Any], **more: Any) -> Json:
    filled = {"elem": elements} if elements else {}
    return {"add": {"set": {"family": FAMILY, "table": TABLE, "name": name, "type": type, **more, **filled}}}


def _chain(name: str, **hook: Any) -> Json:
    return {"add": {"chain": {"family": FAMILY, "table": TABLE, "name": name, **hook}}}


def _rule(chain: str, *expressions: Json) -> Json:
    return {"add": {"rule": {"family": FAMILY, "table": TABLE, "chain": chain, "expr": list(expressions)}}}


def _is(left: Json, right: Any) -> Json:
    return {"match": {"op": "==", "left": left, "right": right}}


def _is_not(left: Json, right: Any) -> Json:
    return {"match": {"op": "!=", "left": left, "right": right}}


def _field(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


def _state(*states: str) -> Json:
    return {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": list(states)}}
