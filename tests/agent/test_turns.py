"""What never returns costs one lease: whoever waits for their turn meanwhile does not do so for ever."""

from __future__ import annotations

import threading
from pathlib import Path
from threading import Lock

import pytest

from hosts.agent import turns
from hosts.agent.machines import HypervisorError, MachineFacts
from hosts.agent.turns import turn
from hosts.protocol.messages import MachineRunning, ProvisionFailed
from tests.agent.fake_machines import FakeMachines
from tests.agent.host_in_a_box import Box, gpu_order, wait_for


class StuckMachines(FakeMachines):
    """The definition of one machine never comes back."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.is_asked, self.goes_on = threading.Event(), threading.Event()

    def define(self, xml: str, *, disk_key: bytes | None = None, home_key: bytes | None = None) -> None:
        if "<name>lease-1</name>" in xml:
            self.is_asked.set()
            self.goes_on.wait()
        super().define(xml, disk_key=disk_key, home_key=home_key)


class StuckBox(Box):
    machines: StuckMachines

    def make_machines(self) -> StuckMachines:
        return StuckMachines(self.directory)


def test_a_definition_that_never_comes_back_keeps_no_other_lease_waiting_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.2)
    box = StuckBox(tmp_path)
    request.addfinalizer(box.close)
    request.addfinalizer(box.machines.goes_on.set)
    box.start()
    box.intake(0)
    box.intake(1)
    box.deliver(box.provision(gpu_order(0)), subject="lease:1")
    assert box.machines.is_asked.wait(20)
    box.deliver(box.provision(gpu_order(1), lease=2), subject="lease:2")
    wait_for(lambda: box.events(ProvisionFailed))
    assert "has not ended within 0.2 s" in box.last(ProvisionFailed).reason
    box.machines.goes_on.set()
    wait_for(lambda: box.events(MachineRunning))


def test_a_turn_ends_whatever_happens_in_it() -> None:
    lock = Lock()
    with pytest.raises(KeyError), turn(lock):
        raise KeyError
    assert not lock.locked()


class WatchingMachines(FakeMachines):
    """Knows whether anybody else could use the journal while machines are listed."""

    box: Box
    was_held = False

    def machines(self) -> list[MachineFacts]:
        free: list[bool] = []
        if hasattr(self, "box"):
            reader = threading.Thread(target=lambda: free.append(self._is_free()))
            reader.start()
            reader.join()
            self.was_held |= not free[0]
        return super().machines()

    def _is_free(self) -> bool:
        lock = self.box.rig.journal._lock
        is_free = lock.acquire(blocking=False)
        if is_free:
            lock.release()
        return is_free


class WatchedBox(Box):
    machines: WatchingMachines

    def make_machines(self) -> WatchingMachines:
        return WatchingMachines(self.directory)


def test_the_journal_is_free_while_the_host_is_looked_at_at_the_start(tmp_path: Path) -> None:
    box = WatchedBox(tmp_path)
    box.machines.box = box
    box.start()
    box.close()
    assert not box.machines.was_held


def test_the_hypervisor_is_said_to_be_the_reason() -> None:
    lock = Lock()
    lock.acquire()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "TURN_SECONDS", 0.0)
        with pytest.raises(HypervisorError, match="another lease"), turn(lock):
            pass
