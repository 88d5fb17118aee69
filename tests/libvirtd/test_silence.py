"""A libvirt that is there and says nothing ends the worker, as one that is gone does."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

import pytest

from hosts.agent.hypervisor import Hypervisor
from hosts.agent.machines import HypervisorError
from hosts.agent.watch import Watch
from hosts.protocol.messages import Inventory
from tests.agent.host_in_a_box import wait_for
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
