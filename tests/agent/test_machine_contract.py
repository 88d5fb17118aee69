"""What every `MachineHost` does, asked of the fake and of libvirt with real QEMU."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from hosts.agent.domain import domain_xml
from hosts.agent.machines import HypervisorError, MachineHost, MachineState, Stop, StopCause
from tests.agent.fake_machines import FakeMachines
from tests.agent.machine_specs import LEASE, MACHINE, idle_machine

NAME = "lease-one"


@pytest.fixture(params=["fake", "embedded"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MachineHost]:
    fake = request.param == "fake"
    chosen: MachineHost = FakeMachines(tmp_path) if fake else request.getfixturevalue("embedded")
    yield chosen
    chosen.destroy(NAME)
    chosen.undefine(NAME)


@pytest.fixture
def xml(tmp_path: Path) -> str:
    return domain_xml(idle_machine(tmp_path), [])


def test_a_machine_lives_and_is_forgotten(host: MachineHost, xml: str) -> None:
    assert host.state(NAME) is MachineState.ABSENT
    host.define(xml)
    assert host.state(NAME) is MachineState.OFF
    host.start(NAME)
    assert host.state(NAME) is MachineState.RUNNING
    host.destroy(NAME)
    assert host.state(NAME) is MachineState.OFF
    host.undefine(NAME)
    assert host.state(NAME) is MachineState.ABSENT


def test_everything_may_be_repeated(host: MachineHost, xml: str) -> None:
    for _ in range(2):
        host.define(xml)
    for _ in range(2):
        host.start(NAME)
    assert len(host.machines()) == 1
    for _ in range(2):
        host.destroy(NAME)
    host.shutdown(NAME)
    for _ in range(2):
        host.undefine(NAME)
    host.destroy(NAME)
    host.shutdown(NAME)
    assert host.machines() == []


def test_defining_again_changes_the_machine(host: MachineHost, xml: str, tmp_path: Path) -> None:
    host.define(xml)
    host.define(domain_xml(idle_machine(tmp_path, generation=9), []))
    assert [machine.generation for machine in host.machines()] == [9]


def test_defining_again_does_not_disturb_a_running_machine(host: MachineHost, xml: str) -> None:
    host.define(xml)
    host.start(NAME)
    host.define(xml)
    assert host.state(NAME) is MachineState.RUNNING


def test_a_name_is_not_taken_over_by_another_machine(host: MachineHost, xml: str, tmp_path: Path) -> None:
    host.define(xml)
    with pytest.raises(HypervisorError, match=f"Cannot define {NAME}"):
        host.define(domain_xml(idle_machine(tmp_path, uuid=UUID(int=5)), []))


def test_machines_tell_whose_they_are(host: MachineHost, xml: str) -> None:
    host.define(xml)
    (facts,) = host.machines()
    assert (facts.name, facts.uuid, facts.lease_id, facts.generation) == (NAME, MACHINE, LEASE, 3)
    assert facts.state is MachineState.OFF


def test_a_running_machine_is_not_forgotten(host: MachineHost, xml: str) -> None:
    host.define(xml)
    host.start(NAME)
    with pytest.raises(HypervisorError, match="running"):
        host.undefine(NAME)
    assert host.state(NAME) is MachineState.RUNNING


@pytest.mark.parametrize("call", ["start", "reboot", "reset", "console_socket"])
def test_an_absent_machine_cannot_be_used(host: MachineHost, call: str) -> None:
    ask: Callable[[str], object] = getattr(host, call)
    with pytest.raises(HypervisorError, match=NAME):
        ask(NAME)


@pytest.mark.parametrize("call", ["reboot", "reset", "console_socket"])
def test_a_machine_that_is_off_cannot_be_used(host: MachineHost, xml: str, call: str) -> None:
    host.define(xml)
    ask: Callable[[str], object] = getattr(host, call)
    with pytest.raises(HypervisorError, match=NAME):
        ask(NAME)


def test_a_machine_that_is_reset_runs_on(host: MachineHost, xml: str) -> None:
    host.define(xml)
    host.start(NAME)
    host.reset(NAME)
    assert host.state(NAME) is MachineState.RUNNING


def test_a_running_machine_has_a_console(host: MachineHost, xml: str) -> None:
    host.define(xml)
    host.start(NAME)
    assert host.console_socket(NAME).name == "vnc.sock"


def test_who_listens_is_told_of_a_stop(host: MachineHost, xml: str) -> None:
    stops: queue.Queue[Stop] = queue.Queue()
    host.on_stopped(stops.put)
    host.define(xml)
    host.start(NAME)
    host.destroy(NAME)
    assert stops.get(timeout=10) == Stop(name=NAME, cause=StopCause.DESTROYED)


def test_versions_are_told(host: MachineHost) -> None:
    libvirt, qemu = host.versions()
    assert (libvirt, qemu) > ((8, 7, 0), (7, 2, 0))
    assert max(*libvirt, *qemu) < 1000


def test_a_running_machine_has_a_socket_behind_each_of_its_channels(host: MachineHost, xml: str) -> None:
    channel = "org.qemu.guest_agent.0"
    host.define(xml)
    with pytest.raises(HypervisorError, match=channel):
        host.channel_socket(NAME, channel)
    host.start(NAME)
    assert host.channel_socket(NAME, channel).is_absolute()
    with pytest.raises(HypervisorError, match=r"org\.example"):
        host.channel_socket(NAME, "org.example")
    with pytest.raises(HypervisorError, match="nobody"):
        host.channel_socket("nobody", channel)
