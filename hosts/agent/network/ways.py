"""The ways in which machines have a network: none, libvirt's behind our packet filter, or QEMU's own."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from lxml import etree

from hosts.agent.machines import MachineHost
from hosts.agent.network.definition import NETDEV, bridged_interface, network_xml, user_interface
from hosts.agent.network.lanes import Lane
from hosts.agent.network.ruleset import FAMILY, TABLE, ruleset
from hosts.agent.network.settings import NetworkSettings

NFT_SECONDS = 30


class NetworkError(Exception):
    """The network of a machine could not be made, closed or removed; the text is for an operator."""


class Network(Protocol):
    """How machines are reached. Calls may be repeated. Errors: NetworkError, HypervisorError.

    `connects`: whether there is any.
    """

    connects: bool

    def join(self, lane: Lane) -> tuple[Sequence[etree._Element], Sequence[etree._Element]]:
        """What a machine's definition says about it: under `<devices>`, and under `<domain>`."""

    def make(self, lane: Lane) -> None:
        """What the machine needs before it starts."""

    def admit(self, lanes: Collection[Lane]) -> bool:
        """Let through what belongs to these lanes as far as they are open, and nothing else of ours.

        Whether anything was otherwise than this left it last.
        """

    def remove(self, lease_id: UUID) -> None:
        """Its machine is gone: nothing of its network is left."""

    def present(self) -> dict[UUID, int]:
        """The number of each lease's network that is there."""

    def is_usable(self, lane: Lane) -> bool:
        """Whether nobody else on the host has its ports."""

    def way_to(self, lane: Lane, inside: int) -> tuple[str, int] | None:
        """Where this host itself reaches a port of the machine; None if that port is not forwarded."""


class NoNetwork:
    """The console is the only way in."""

    connects = False

    def join(self, lane: Lane) -> tuple[Sequence[etree._Element], Sequence[etree._Element]]:
        return (), ()

    def make(self, lane: Lane) -> None:
        pass

    def admit(self, lanes: Collection[Lane]) -> bool:
        return False

    def remove(self, lease_id: UUID) -> None:
        pass

    def present(self) -> dict[UUID, int]:
        return {}

    def is_usable(self, lane: Lane) -> bool:
        return True

    def way_to(self, lane: Lane, inside: int) -> tuple[str, int] | None:
        return None


class UserNetwork(NoNetwork):
    """QEMU's own: it lives in the machine's process, and ends with it."""

    connects = True

    def __init__(self, settings: NetworkSettings, hypervisor: MachineHost) -> None:
        self._address = settings.address
        self._hypervisor = hypervisor

    def join(self, lane: Lane) -> tuple[Sequence[etree._Element], Sequence[etree._Element]]:
        return (), (user_interface(lane, self._address),)

    def admit(self, lanes: Collection[Lane]) -> bool:
        """Closed lanes of machines that still run."""
        closed = {lane.lease_id: lane for lane in lanes if not lane.is_open}
        for facts in self._hypervisor.machines() if closed else ():
            if facts.is_active and facts.lease_id in closed:
                ports = [port for port, _inside in closed[facts.lease_id].forwards]
                self._hypervisor.cut_off(
                    facts.name, NETDEV, [f"tcp:{self._address}:{port}" for port in ports]
                )
        return False

    def is_usable(self, lane: Lane) -> bool:
        return _are_free(self._address, lane)

    def way_to(self, lane: Lane, inside: int) -> tuple[str, int] | None:
        return next(((self._address, port) for port, behind in lane.forwards if behind == inside), None)


class BridgedNetwork:
    """A libvirt network per lease; `nft` is given the packet filter, and asked what it has."""

    connects = True

    def __init__(
        self,
        settings: NetworkSettings,
        hypervisor: MachineHost,
        *,
        shunned: Callable[[], Collection[IPv4Address]] = tuple,
        nft: Callable[[Mapping[str, Any] | None], str] | None = None,
    ) -> None:
        self._settings = settings
        self._hypervisor = hypervisor
        self._shunned = shunned
        self._nft = nft or run_nft
        self._lock = threading.Lock()
        self._wanted = ""
        self._left = ""

    def join(self, lane: Lane) -> tuple[Sequence[etree._Element], Sequence[etree._Element]]:
        return (bridged_interface(lane),), ()

    def make(self, lane: Lane) -> None:
        self._hypervisor.make_network(network_xml(lane, self._settings.dns))
        if lane.lease_id not in self.present():
            raise NetworkError("The network was made, and libvirt does not know it.")

    def admit(self, lanes: Collection[Lane]) -> bool:
        rules = ruleset(self._settings, lanes, shunned=self._shunned())
        wanted = json.dumps(rules, sort_keys=True)
        with self._lock:
            is_changed = bool(self._left) and self._nft(None) != self._left
            if is_changed or wanted != self._wanted:
                self._wanted = ""
                self._nft(rules)
                self._left, self._wanted = self._nft(None), wanted
        return is_changed

    def remove(self, lease_id: UUID) -> None:
        self._hypervisor.remove_network(lease_id)

    def present(self) -> dict[UUID, int]:
        return self._hypervisor.networks()

    def is_usable(self, lane: Lane) -> bool:
        return _are_free("", lane)

    def way_to(self, lane: Lane, inside: int) -> tuple[str, int] | None:
        is_forwarded = any(behind == inside for _port, behind in lane.forwards)
        return (str(lane.address), inside) if is_forwarded else None


def run_nft(rules: Mapping[str, Any] | None) -> str:
    """Carry out rules; without any, what our table holds: empty if it is not there."""
    words = ["-f", "-"] if rules is not None else ["list", "table", FAMILY, TABLE]
    try:
        done = subprocess.run(
            ["nft", "-j", *words],
            input=None if rules is None else json.dumps(rules),
            capture_output=True,
            text=True,
            timeout=NFT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"nft cannot be run: {error}") from error
    if done.returncode and rules is not None:
        raise NetworkError(f"nft refused the packet filter: {done.stderr.strip()}")
    return done.stdout if not done.returncode else "absent"


def open_network(settings: NetworkSettings, hypervisor: MachineHost, *, broker_url: str) -> Network:
    """The one that is configured."""
    match settings.mode:
        case "user":
            return UserNetwork(settings, hypervisor)
        case "bridge":
            return BridgedNetwork(settings, hypervisor, shunned=lambda: addresses_of(broker_url))
    return NoNetwork()


def addresses_of(url: str) -> list[IPv4Address]:
    """Where the broker is; nowhere that a machine could reach if it is behind a socket."""
    name = urlsplit(url).hostname
    if not name:
        return []
    try:
        found = socket.getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NetworkError(f"The broker's address {name} cannot be looked up: {error}") from error
    return sorted({IPv4Address(each[4][0]) for each in found})


def _are_free(address: str, lane: Lane) -> bool:
    for port, _inside in lane.forwards:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
