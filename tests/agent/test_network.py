"""A lease's network: there before its machine starts, told to the portal, shut first and gone last."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.agent.host_key import keep_host_key
from hosts.agent.journal import Journal
from hosts.agent.network.definition import network_xml
from hosts.agent.network.lanes import Lanes, NoLane, make_lane
from hosts.agent.network.settings import PORTS_EACH, NetworkSettings
from hosts.agent.network.ways import addresses_of
from hosts.protocol.messages import (
    Access,
    Forward,
    MachineGone,
    MachineOrder,
    MachineRunning,
    NetworkOrder,
    Provision,
    ProvisionFailed,
)
from tests.agent.host_in_a_box import Box, a_box, gpu_order
from tests.agent.test_seed import GUEST

GOLDEN = Path(__file__).parent / "golden"
SMALL = NetworkSettings(mode="bridge", addresses="172.29.0.0/28", ports=(22000, 22999))
LEASE = UUID(int=1)


def connected(box: Box, *, lease: int = 1, ports: tuple[int, ...] = (22, 3389)) -> Provision:
    machine = MachineOrder(
        name=f"lease-{lease}",
        vcpus=1,
        memory_mib=64,
        disk_gib=0,
        image=box.image,
        guest=GUEST,
        network=NetworkOrder(ports=ports),
    )
    return box.provision(box.intake(lease - 1), lease=lease, machine=machine)


def start(box: Box, **changes: Any) -> MachineRunning:
    goal = connected(box, **changes)
    box.carry_out(goal, subject=f"lease:{goal.lease_id}")
    return box.last(MachineRunning)


def test_the_portal_is_told_how_the_machine_is_reached(tmp_path: Path) -> None:
    with a_box(tmp_path) as box:
        access = start(box).access
        key = keep_host_key(box.config.machines_directory / f"{LEASE}.hostkey")
        ports = (Forward(port=22000, inside=22), Forward(port=22001, inside=3389))
        assert access == Access(address="box.example", forwards=ports, host_key=key.fingerprint)
        assert box.filter.forwards == {22000: ("172.29.0.2", 22), 22001: ("172.29.0.2", 3389)}
        assert box.filter.admitted == {"lh-0"}
        assert '<source network="leasehold-00000000-0000-0000-0000-000000000001"/>' in box.machines.xml(
            "lease-1"
        )


def test_two_leases_share_nothing(tmp_path: Path) -> None:
    with a_box(tmp_path) as box:
        start(box)
        start(box, lease=2)
        assert box.machines.networks() == {UUID(int=1): 0, UUID(int=2): 1}
        assert {address for address, _port in box.filter.forwards.values()} == {"172.29.0.2", "172.29.0.6"}


def test_a_release_shuts_it_before_the_machine_stops_and_removes_it_after(tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}

    def note(boundary: str) -> None:
        seen[boundary] = (len(box.filter.forwards), len(box.machines.networks()))

    with a_box(tmp_path, on_boundary=note) as box:
        start(box)
        box.carry_out(box.release(gpu_order(0)), subject="lease:1")
        assert box.last(MachineGone).lease_id == LEASE
        assert seen["release:close:before"] == (2, 1)
        assert seen["release:stop:before"] == (0, 1)
        assert seen["release:disconnect:after"] == (0, 0)
        assert not box.filter.admitted
        assert box.rig.lanes.all() == []
        assert list(box.config.machines_directory.iterdir()) == []


def test_a_machine_that_asks_for_none_has_none(tmp_path: Path) -> None:
    with a_box(tmp_path) as box:
        box.carry_out(box.provision(box.intake()), subject="lease:1")
        assert box.last(MachineRunning).access is None
        assert "<interface" not in box.machines.xml("lease-1")
        assert box.rig.lanes.all() == []


def test_a_host_that_connects_nothing_says_so_by_silence(tmp_path: Path) -> None:
    with a_box(tmp_path, network=NetworkSettings()) as box:
        hardware_without(box)
        assert start(box).access is None
        assert "<interface" not in box.machines.xml("lease-1")


def hardware_without(box: Box) -> None:
    """As `open_network` chooses it for the mode `none`."""
    from dataclasses import replace

    from hosts.agent.executor import Executor
    from hosts.agent.host_plans import PLAN_KINDS
    from hosts.agent.network.ways import open_network

    box.executor.stop(seconds=5)
    rig = replace(box.rig, network=open_network(box.config.network, box.machines, broker_url="memory://"))
    box.rig = box.acceptance._rig = rig
    box.executor = Executor(rig, PLAN_KINDS)
    box.executor.start()


def test_without_a_packet_filter_nothing_starts(tmp_path: Path) -> None:
    with a_box(tmp_path) as box:
        goal = connected(box)
        box.filter.refuses = True
        box.carry_out(goal, subject="lease:1")
        assert box.last(ProvisionFailed).step == "connect"
        assert not [facts for facts in box.machines.machines() if facts.is_active]


def test_after_a_reboot_the_same_way_leads_to_the_same_machine(tmp_path: Path) -> None:
    with a_box(tmp_path) as box:
        before = start(box).access
        box.close()
        box.machines.lose_power()
        box.filter.forget()
        box.boot_id = "second boot"
        box.open()
        box.start()
        box.settle()
        assert len(box.events(MachineRunning)) == 2
        assert box.last(MachineRunning).access == before
        assert set(box.filter.forwards) == {22000, 22001}


def test_a_network_without_a_lease_is_found_and_removed(tmp_path: Path) -> None:
    with a_box(tmp_path) as box:
        stray = UUID(int=9)
        box.machines.make_network(network_xml(make_lane(SMALL, stray, 3, ()), ()))
        with box.rig.journal.transaction():
            box.rig.lanes.take(UUID(int=8), (22,), present={})
        box.restart()
        assert box.machines.networks() == {}
        assert box.rig.lanes.all() == []
        assert not box.filter.admitted


def test_a_filter_that_somebody_changed_is_restored_and_told(tmp_path: Path) -> None:
    from hosts.agent.drift_notes import differences_found
    from hosts.agent.mending import mend

    with a_box(tmp_path) as box:
        start(box)
        box.filter.forget()
        mend(box.rig)
        assert box.filter.admitted == {"lh-0"}
        assert [each.code for each in differences_found(box.rig)] == ["packet-filter"]
        mend(box.rig)
        assert differences_found(box.rig) == ()


def test_a_lost_journal_lets_nobody_through(tmp_path: Path) -> None:
    """Who had the machine is not known any more, until the portal has looked."""
    with a_box(tmp_path) as box:
        start(box)
        box.close()
        for path in box.config.state_directory.glob("journal*"):
            path.unlink()
        box.open()
        box.start()
        assert not box.filter.admitted
        assert not box.filter.forwards
        assert box.machines.networks() == {LEASE: 0}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("tdc"), st.integers(0, 5)), max_size=40))
def test_no_two_leases_ever_have_one_number(acts: list[tuple[str, int]]) -> None:
    """A small range of four; who has one keeps it."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal")
        lanes = Lanes(journal, SMALL)
        had: dict[UUID, int] = {}
        for act, number in acts:
            lease = UUID(int=number)
            if act == "t":
                try:
                    lane = lanes.take(lease, (22,), present={})
                except NoLane:
                    assert len(had) == SMALL.lanes
                    assert lease not in had
                    continue
                assert had.setdefault(lease, lane.number) == lane.number
            elif act == "d":
                lanes.drop(lease)
                had.pop(lease, None)
            else:
                lanes.close(lease)
            assert len({*had.values()}) == len(had)
            assert {lane.lease_id: lane.number for lane in lanes.all()} == had
        journal.close()


def test_lanes_do_not_overlap() -> None:
    lanes = [make_lane(SMALL, UUID(int=number), number, range(1, 9)) for number in range(SMALL.lanes)]
    assert len(lanes) == 4
    assert [str(lane.subnet) for lane in lanes] == [f"172.29.0.{4 * number}/30" for number in range(4)]
    ports = [port for lane in lanes for port, _inside in lane.forwards]
    assert len(ports) == len({*ports}) == 4 * PORTS_EACH


def test_a_number_that_exists_is_not_given_to_another(tmp_path: Path) -> None:
    lanes = Lanes(Journal(tmp_path / "journal"), SMALL)
    present = {UUID(int=7): 0, UUID(int=1): 2}
    assert lanes.take(UUID(int=2), (), present=present).number == 1
    assert lanes.take(UUID(int=1), (), present=present).number == 2
    unusable = lanes.take(UUID(int=3), (), present={}, is_usable=lambda lane: lane.number != 3)
    assert unusable.number == 0


def test_the_network_is_as_written(pytestconfig: pytest.Config) -> None:
    xml = network_xml(make_lane(SMALL, LEASE, 2, (22,)), ("9.9.9.9", "1.1.1.1"))
    golden = GOLDEN / "network.xml"
    if pytestconfig.getoption("write_golden"):
        golden.write_text(xml)
    assert xml == golden.read_text()


@pytest.mark.parametrize(
    "wrong",
    [
        {"addresses": "172.29.0.1/16"},
        {"addresses": "172.29.0.0/31"},
        {"allowed": ["anywhere"]},
        {"dns": ["dns.example"]},
        {"ports": [22000, 22001]},
        {"ports": [22, 22999]},
        {"mode": "routed"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, type=NetworkSettings)


def test_the_brokers_address_is_found() -> None:
    assert list(map(str, addresses_of("rediss://host:secret@127.0.0.1:6379/0"))) == ["127.0.0.1"]
    assert addresses_of("redis+socket:///run/broker.sock") == []


def test_openssh_reads_the_host_key_and_calls_it_the_same(tmp_path: Path) -> None:
    key = keep_host_key(tmp_path / "key")
    assert keep_host_key(tmp_path / "key").fingerprint == key.fingerprint
    written = tmp_path / "id"
    written.touch(mode=0o600)
    written.write_text(key.private)

    def keygen(*words: str) -> str:
        return subprocess.run(
            ["ssh-keygen", *words, "-f", str(written)], check=True, capture_output=True, text=True
        ).stdout

    assert key.fingerprint in keygen("-l")
    assert keygen("-y").split()[:2] == key.public.split()
