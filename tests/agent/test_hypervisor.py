"""libvirt itself, beyond the contract: real files, other processes, and machines that outlive theirs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hosts.agent import domain_facts
from hosts.agent.domain import UefiDisk, domain_xml, node
from hosts.agent.hypervisor import Hypervisor, _run_event_loop
from hosts.agent.machines import HypervisorError, HypervisorSilent
from hosts.agent.turns import TURN_SECONDS
from tests.agent.machine_specs import idle_machine
from tests.agent.test_domain import CASES

KEEPER = """
import sys
from hosts.agent.hypervisor import Hypervisor
keeper = Hypervisor.open(sys.argv[1])
keeper.define(sys.stdin.readline().replace(chr(0), chr(10)))
keeper.start("lease-one")
print("up", flush=True)
sys.stdin.read()
"""
SUCCESSOR = """
import sys
from hosts.agent.hypervisor import Hypervisor
successor = Hypervisor.open(sys.argv[1])
(machine,) = successor.machines()
print(machine.name, machine.state.value, machine.lease_id, successor.console_socket(machine.name).exists())
successor.destroy(machine.name)
successor.undefine(machine.name)
print(successor.machines())
"""


@pytest.fixture
def other_root() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="lh-") as root:
        yield f"qemu:///embed?root={root}"


def test_a_machine_outlives_the_killed_process_and_the_next_one_takes_it_back(
    other_root: str, tmp_path: Path
) -> None:
    spec = idle_machine(tmp_path)
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER, other_root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.write(domain_xml(spec, []).replace("\n", "\0") + "\n")
        keeper.stdin.flush()
        assert keeper.stdout.readline() == "up\n"
        os.kill(keeper.pid, signal.SIGKILL)
    found = subprocess.run(
        [sys.executable, "-c", SUCCESSOR, other_root], check=True, capture_output=True, text=True
    )
    assert found.stdout.splitlines() == [f"lease-one running {spec.lease_id} True", "[]"]


def test_a_second_process_is_refused(embedded: Hypervisor, embedded_root: Path) -> None:
    uri = f"qemu:///embed?root={embedded_root}"
    second = subprocess.run(
        [sys.executable, "-c", SUCCESSOR, uri], check=False, capture_output=True, text=True
    )
    assert second.returncode == 1
    assert "HypervisorError: Cannot connect" in second.stderr


def test_the_consoles_socket_answers_as_a_vnc_server(embedded: Hypervisor, tmp_path: Path) -> None:
    embedded.define(domain_xml(idle_machine(tmp_path), []))
    embedded.start("lease-one")
    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(10)
        console.connect(str(embedded.console_socket("lease-one")))
        assert console.recv(12).startswith(b"RFB 003.")
    embedded.destroy("lease-one")
    embedded.undefine("lease-one")


@pytest.mark.parametrize("case", CASES)
def test_libvirt_takes_every_variant(embedded: Hypervisor, case: str) -> None:
    """Valid by its schema, and consistent by its own rules; emulated, as this machine may have no KVM."""
    spec, fragments = CASES[case]
    embedded.define(domain_xml(replace(spec, domain_type="qemu", disk=None), fragments))
    embedded.undefine(spec.name)


def test_a_machine_for_windows_11_starts_and_takes_its_secrets_with_it(
    embedded: Hypervisor, embedded_root: Path, tmp_path: Path
) -> None:
    boot = UefiDisk(nvram=tmp_path / "lease-one.nvram", secure=True)
    embedded.define(domain_xml(idle_machine(tmp_path, boot=boot, tpm=True, hides_hypervisor=True), []))
    embedded.start("lease-one")
    secrets = embedded_root / "lib" / "swtpm"
    assert list(secrets.rglob("tpm2-00.permall"))
    assert boot.nvram.exists()
    embedded.destroy("lease-one")
    embedded.undefine("lease-one")
    assert list(secrets.iterdir()) == []
    assert not boot.nvram.exists()


def test_firmware_variables_go_with_the_machine(embedded: Hypervisor, tmp_path: Path) -> None:
    spec = idle_machine(tmp_path)
    assert isinstance(spec.boot, UefiDisk)
    embedded.define(domain_xml(spec, []))
    embedded.start("lease-one")
    assert spec.boot.nvram.exists()
    embedded.destroy("lease-one")
    embedded.undefine("lease-one")
    assert not spec.boot.nvram.exists()


def test_xml_that_libvirt_does_not_know_is_refused(embedded: Hypervisor, tmp_path: Path) -> None:
    xml = domain_xml(idle_machine(tmp_path), []).replace("<apic/>", "<nonsense/>")
    with pytest.raises(HypervisorError, match=r"Cannot define lease-one: .* element features"):
        embedded.define(xml)


def test_the_embedded_driver_refuses_a_key_rather_than_losing_it(
    embedded: Hypervisor, tmp_path: Path
) -> None:
    assert not embedded.keeps_keys
    with pytest.raises(HypervisorError, match="keeps none"):
        embedded.define(domain_xml(idle_machine(tmp_path), []), disk_key=b"00")
    embedded.undefine("lease-one")


def test_an_account_that_libvirt_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hosts.agent.embedded.QEMU_ACCOUNT", "nobody-of-that-name")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(HypervisorError, match=r"useradd .* nobody-of-that-name"):
        Hypervisor.open(f"qemu:///embed?root={tmp_path}")


def test_an_unknown_hypervisor_is_an_error_in_plain_words() -> None:
    with pytest.raises(HypervisorError, match="Cannot connect to nowhere:///system"):
        Hypervisor.open("nowhere:///system")


@pytest.mark.skipif(os.geteuid() != 0, reason="interfaces are made by root")
def test_what_goes_through_a_machines_interfaces_is_counted(embedded: Hypervisor, tmp_path: Path) -> None:
    """Where each of them has an end on the host; what another kind lets through cannot be known."""
    interface = node("interface", node("model", type="virtio"), node("rom", enabled="no"), type="ethernet")
    embedded.define(domain_xml(idle_machine(tmp_path), [interface]))
    embedded.start("lease-one")
    assert embedded.counters("lease-one").network_bytes is not None
    embedded.destroy("lease-one")
    embedded.undefine("lease-one")


@pytest.mark.parametrize(
    ("interfaces", "found"),
    [
        ("", []),
        ("<interface type='network'><target dev='vnet3'/></interface>", ["vnet3"]),
        ("<interface type='network'><target dev='vnet3'/></interface><interface type='hostdev'/>", None),
        ("<interface type='user'><target/></interface>", None),
    ],
)
def test_which_interfaces_can_be_watched(interfaces: str, found: list[str] | None) -> None:
    xml = f"<domain><devices>{interfaces}</devices></domain>"
    assert domain_facts.read_interfaces(xml) == found


@pytest.fixture
def pretended() -> Iterator[Hypervisor]:
    """libvirt's own pretence of a hypervisor."""
    _run_event_loop()
    hypervisor = Hypervisor("test:///default", is_embedded=True)
    yield hypervisor
    hypervisor.close()


def test_without_any_connection_nothing_is_said_of_a_next_one(
    pretended: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the watch does not wait for it for ever."""
    monkeypatch.setattr("hosts.agent.hypervisor.CHANGE_SECONDS", 0.0)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(pretended._lines, "_current", None)
        with pytest.raises(HypervisorError, match="no connection within 0 s") as told:
            pretended.start("test")
    assert not isinstance(told.value, HypervisorSilent)
    pretended.start("test")


def test_whoever_chooses_and_defines_is_given_up_before_the_next_ones_turn_is(
    pretended: Hypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, call = list[float](), pretended._lines.call

    def note(what: str, seconds: float) -> AbstractContextManager[None]:
        limits.append(seconds)
        return call(what, seconds)

    monkeypatch.setattr(pretended._lines, "call", note)
    with suppress(HypervisorError):  # it knows no such machine
        pretended.machines()
    with suppress(HypervisorError):
        pretended.define(domain_xml(idle_machine(tmp_path), []))
    assert len(limits) == 2
    assert sum(limits) < TURN_SECONDS
