"""What a machine reaches, and who reaches it: tried in namespaces, against the kernel's own packet filter."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

import pytest

from hosts.agent.doctor import host_checks
from hosts.agent.network import examining
from hosts.agent.network.examining import examine_filter
from hosts.agent.network.lanes import Lane, make_lane
from hosts.agent.network.settings import NetworkSettings
from hosts.agent.network.ways import BridgedNetwork, run_nft
from hosts.protocol.findings import TOPICS, put_in_words
from tests.agent.fake_machines import FakeMachines
from tests.agent.namespaces import PATIENCE_SECONDS, Place, places, wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made by root")

PUBLIC, BROKER, PRIVATE, ALLOWED, RESOLVER = "11.0.0.2", "11.0.0.3", "10.1.0.9", "10.20.0.9", "10.1.0.53"
METADATA, OTHERS = "169.254.169.254", "192.168.7.7"
HYPERVISOR, MANAGEMENT = "11.0.0.1", "10.1.0.1"
WEB, DNS, SSH = 80, 53, 22
SETTINGS = NetworkSettings(
    mode="bridge",
    address="hv1.example",
    # A range that is too large by accident does not open what is never opened.
    allowed=("10.20.0.0/16", "169.254.0.0/16", "11.0.0.3/32"),
    dns=(RESOLVER,),
)
ALICE, BOB = (make_lane(SETTINGS, UUID(int=number + 1), number, (SSH,)) for number in range(2))


@dataclass
class Site:
    """A hypervisor with two machines, and everything else in one place."""

    hypervisor: Place
    alice: Place
    bob: Place
    world: Place
    network: BridgedNetwork


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with places("hv", "alice", "bob", "world") as (hypervisor, alice, bob, world):
        wire(hypervisor, "wan", world, "wan")
        routes = "10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"
        hypervisor.run(
            f"ip address add {HYPERVISOR}/24 dev wan",
            f"ip address add {MANAGEMENT}/32 dev lo",
            *(f"ip route add {route} via {PUBLIC}" for route in routes),
            "sysctl -qw net.ipv4.ip_forward=1",
        )
        world.run(
            f"ip address add {PUBLIC}/24 dev wan",
            *(f"ip address add {each}/32 dev lo" for each in (PRIVATE, ALLOWED, RESOLVER, METADATA, OTHERS)),
            f"ip address add {BROKER}/24 dev wan",
            f"ip route add 172.29.0.0/16 via {HYPERVISOR}",
            f"ip route add {MANAGEMENT} via {HYPERVISOR}",
        )
        for place, lane in ((alice, ALICE), (bob, BOB)):
            plug_in(place, lane, hypervisor)
        listening = {world: (WEB, DNS), hypervisor: (WEB, 6379), alice: (SSH, WEB), bob: (SSH,)}
        for place, ports in listening.items():
            for port in ports:
                place.listen(port)
        network = BridgedNetwork(
            SETTINGS,
            FakeMachines(None),  # type: ignore[arg-type]
            shunned=lambda: [IPv4Address(BROKER)],
            nft=lambda rules: hypervisor.inside(lambda: run_nft(rules)),
        )
        yield Site(hypervisor, alice, bob, world, network)


def plug_in(place: Place, lane: Lane, hypervisor: Place) -> None:
    """As libvirt does it: a bridge of the lane's own, and the machine behind it."""
    hypervisor.run(
        f"ip link add {lane.bridge} type bridge",
        f"ip address add {lane.gateway}/30 dev {lane.bridge}",
        f"ip link set {lane.bridge} up",
    )
    wire(hypervisor, f"tap{lane.number}", place, "eth0")
    hypervisor.run(f"ip link set tap{lane.number} master {lane.bridge}")
    place.run(f"ip address add {lane.address}/30 dev eth0", f"ip route add default via {lane.gateway}")


@pytest.fixture
def open_site(site: Site) -> Site:
    site.network.admit([ALICE, BOB])
    return site


def test_without_the_filter_everything_is_reached(site: Site) -> None:
    """Or else the tests below would show nothing."""
    for address in (PUBLIC, BROKER, PRIVATE, ALLOWED, METADATA, OTHERS, HYPERVISOR, MANAGEMENT):
        assert site.alice.reaches(address, WEB), address
    assert site.alice.reaches(str(BOB.address), SSH)
    assert site.world.reaches(str(ALICE.address), SSH)


@pytest.mark.parametrize(
    ("address", "port"),
    [
        (str(BOB.address), SSH),
        (str(BOB.gateway), WEB),
        (str(ALICE.gateway), WEB),
        (HYPERVISOR, WEB),
        (HYPERVISOR, 6379),
        (HYPERVISOR, BOB.forwards[0][0]),
        (MANAGEMENT, WEB),
        (BROKER, WEB),
        (METADATA, WEB),
        (PRIVATE, WEB),
        (OTHERS, WEB),
        (RESOLVER, WEB),
    ],
)
def test_a_machine_does_not_reach(open_site: Site, address: str, port: int) -> None:
    assert not open_site.alice.reaches(address, port)


@pytest.mark.parametrize(("address", "port"), [(PUBLIC, WEB), (ALLOWED, WEB), (RESOLVER, DNS)])
def test_a_machine_reaches(open_site: Site, address: str, port: int) -> None:
    assert open_site.alice.reaches(address, port)


def test_it_is_reached_by_its_forwarded_port_and_in_no_other_way(open_site: Site) -> None:
    (port, _ssh), *_none = ALICE.forwards
    for address in (HYPERVISOR, MANAGEMENT):
        assert open_site.world.reaches(address, port)
    assert not open_site.world.reaches(HYPERVISOR, port + 1)
    assert not open_site.world.reaches(str(ALICE.address), SSH)
    assert not open_site.world.reaches(str(ALICE.address), WEB)


def test_its_own_host_may_look_whether_it_answers_by_ssh_alone(open_site: Site) -> None:
    way = open_site.network.way_to(ALICE, SSH)
    assert way == (str(ALICE.address), SSH)
    assert open_site.hypervisor.reaches(*way)
    assert not open_site.hypervisor.reaches(str(ALICE.address), WEB)
    assert open_site.network.way_to(ALICE, WEB) is None, "nobody has forwarded it"


def test_it_cannot_speak_for_another(open_site: Site) -> None:
    """Its own datagrams arrive under its host's address; those under a made-up one do not arrive at all."""
    alice, stolen = open_site.alice, "172.29.0.9"
    with open_site.world.hearing(4000) as heard:
        alice.says(PUBLIC, 4000, source=str(ALICE.address))
        assert heard() == HYPERVISOR
        for source in (stolen, str(BOB.address), PUBLIC):
            alice.run(f"ip address add {source}/32 dev eth0")
            alice.says(PUBLIC, 4000, source=source)
            alice.run(f"ip address del {source}/32 dev eth0")
            assert heard() == "", source


def test_a_closed_lane_lets_nothing_through_not_even_what_was_begun(open_site: Site) -> None:
    """The machine may still run for a while; the other one's is not touched."""
    alice, world = open_site.alice, open_site.world
    with world.hearing(4000) as heard:
        alice.says(PUBLIC, 4000, source=str(ALICE.address))
        assert heard() == HYPERVISOR
        open_site.network.admit([replace(ALICE, is_open=False), BOB])
        alice.says(PUBLIC, 4000, source=str(ALICE.address))
        assert heard() == ""
    assert not world.reaches(HYPERVISOR, ALICE.forwards[0][0])
    assert not alice.reaches(PUBLIC, WEB)
    assert world.reaches(HYPERVISOR, BOB.forwards[0][0])


def asks_for_an_address(place: Place, host: Place, address: str) -> bool:
    """Whether a datagram from the port of those who ask arrives at the port of those who answer."""
    with (
        host.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as ear,
        place.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as mouth,
    ):
        ear.bind(("::", 67))
        mouth.bind(("::", 68))
        with suppress(OSError):  # refused at once
            mouth.sendto(b"hello", (address, 67))
        return bool(select.select([ear], [], [], PATIENCE_SECONDS)[0])


def test_version_6_of_the_protocol_leads_nowhere(open_site: Site) -> None:
    """Neither to the host, not even for an address, nor to a neighbour, whatever addresses they have."""
    host, alice, bob = open_site.hypervisor, open_site.alice, open_site.bob
    host.run("sysctl -qw net.ipv6.conf.all.forwarding=1")
    for number, (place, lane) in enumerate(((alice, ALICE), (bob, BOB)), start=1):
        host.run(f"ip -6 address add fd0{number}::1/64 dev {lane.bridge} nodad")
        place.run(
            f"ip -6 address add fd0{number}::2/64 dev eth0 nodad",
            f"ip -6 route add default via fd0{number}::1",
        )
    host.listen(WEB + 1, "::")
    bob.listen(WEB + 1, "::")
    ways = ("fd01::1", "fd02::1", "fd02::2")
    host.run("nft delete table inet leasehold")
    assert all(alice.reaches(way, WEB + 1) for way in ways), "or else it would show nothing"
    assert asks_for_an_address(alice, host, "fd01::1")
    open_site.network.admit([ALICE, BOB])
    assert not any(alice.reaches(way, WEB + 1) for way in ways)
    assert not asks_for_an_address(alice, host, "fd01::1")


def test_a_firewall_that_drops_what_machines_send_is_found_and_its_advice_helps(open_site: Site) -> None:
    """As Docker leaves it: the policy of a chain that knows nothing of machines."""
    host = open_site.hypervisor
    assert host.inside(examine_filter).dropping == ()
    host.run(
        "nft add table ip filter",
        "nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
    )
    try:
        assert not open_site.alice.reaches(PUBLIC, WEB)
        found = host_checks.forwarding(host.inside(examine_filter))
        host.run(put_in_words(found, TOPICS).lines)
        assert open_site.alice.reaches(PUBLIC, WEB)
        assert not open_site.alice.reaches(str(BOB.address), SSH)
    finally:
        host.run("nft delete table ip filter")


def test_a_host_without_the_programs_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert examine_filter().nft.startswith("nftables v")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(examining, "SYSTEM_PATH", str(tmp_path))
    assert (examine_filter().dnsmasq, "nft" in examine_filter().error) == ("", True)
    (tmp_path / "dnsmasq").touch(mode=0o755)
    assert examine_filter().dnsmasq == str(tmp_path / "dnsmasq")


def test_what_somebody_else_changed_is_put_right(open_site: Site) -> None:
    assert not open_site.network.admit([ALICE, BOB])
    open_site.hypervisor.run("nft flush chain inet leasehold from_machine")
    assert open_site.alice.reaches(METADATA, WEB)
    assert open_site.network.admit([ALICE, BOB])
    assert not open_site.alice.reaches(METADATA, WEB)
    open_site.hypervisor.run("nft delete table inet leasehold")
    assert open_site.network.admit([ALICE, BOB])
    assert not open_site.alice.reaches(METADATA, WEB)
