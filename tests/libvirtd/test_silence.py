"""A libvirt that is there and says nothing ends the worker, as one that is gone does. One call does not."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hosts.agent.check_up import ask_hypervisor
from hosts.agent.doctor import host_checks
from hosts.agent.domain import domain_xml
from hosts.agent.hypervisor import Hypervisor
from hosts.agent.machines import HypervisorError, HypervisorSilent, Stop
from hosts.agent.watch import Watch
from hosts.protocol.messages import Inventory
from tests.agent.host_in_a_box import wait_for
from tests.agent.machine_specs import idle_machine
from tests.libvirtd.conftest import URI
from tests.libvirtd.test_keys import RealBox


def test_a_daemon_that_falls_silent_ends_the_worker(
    daemon: subprocess.Popen[bytes], tenant_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hosts.agent.hypervisor.KEEPALIVE_SECONDS", 1)
    monkeypatch.setattr("hosts.agent.hypervisor.KEEPALIVE_COUNT", 2)
    monkeypatch.setattr("hosts.agent.watch.HYPERVISOR_PATIENCE_SECONDS", 0.1)
    box = RealBox(tmp_path, Hypervisor.open(URI), tenant_image)
    box.start()
    died = threading.Event()
    watch = Watch(box.rig, on_death=died.set)
    watch.start()
    wait_for(lambda: len(box.events(Inventory)) == 2)
    assert not died.is_set()
    daemon.send_signal(signal.SIGSTOP)
    try:
        assert died.wait(20)
    finally:
        daemon.send_signal(signal.SIGCONT)
    with pytest.raises(HypervisorError, match="closed"):
        box.real.machines()
    watch.stop(seconds=5)
    box.close()


@contextmanager
def stopped_qemu(machine: str) -> Iterator[None]:
    """It has stopped in its tracks: libvirt waits for its answers for ever."""
    pid = int(Path(f"/run/libvirt/qemu/{machine}.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_call_that_libvirt_never_answers_is_given_up_and_others_go_on(
    daemon: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keepalives are answered all the while."""
    monkeypatch.setattr("hosts.agent.lines.GUARD_SECONDS", 0.1)
    hypervisor = Hypervisor.open(URI)
    stops: list[Stop] = []
    hypervisor.on_stopped(stops.append)
    spec = idle_machine(tmp_path)
    hypervisor.define(domain_xml(spec, []))
    hypervisor.start(spec.name)
    try:
        with stopped_qemu(spec.name):
            monkeypatch.setattr("hosts.agent.hypervisor.CHANGE_SECONDS", 1.0)
            first = hypervisor._machines
            with pytest.raises(HypervisorSilent, match=f"Cannot cut off {spec.name}: no answer within 1 s"):
                hypervisor.cut_off(spec.name, "net0", [])
            assert daemon.poll() is None
            assert [machine.name for machine in hypervisor.machines()] == [spec.name]
            assert hypervisor._machines is not first
            check = host_checks.libvirt(ask_hypervisor(URI, hypervisor))
            assert (check.verdict, check.outcome) == ("warn", "unanswered")
        wait_for(lambda: not first.isAlive())
    finally:
        monkeypatch.undo()
        hypervisor.destroy(spec.name)
    wait_for(lambda: stops)
    assert [stop.name for stop in stops] == [spec.name]
    hypervisor.undefine(spec.name)
    hypervisor.close()
