"""What the host does by itself: when a lease is over, after a reboot or lost memory, when things vanish."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from hosts.agent.bus import BusError, Card
from hosts.agent.machines import HypervisorError, HypervisorSilent, MachineFacts, MachineState, StopCause
from hosts.agent.simulated import Fault, inject
from hosts.agent.suspend import suspend_machines
from hosts.agent.vigil import report_lost_gpus
from hosts.agent.watch import Watch
from hosts.protocol.messages import (
    ConsoleClosed,
    GpuFailed,
    Inventory,
    MachineGone,
    MachineRunning,
    MachineStopped,
    OpenConsole,
    Ordered,
    Power,
    ProvisionFailed,
    Update,
)
from tests.agent.host_in_a_box import Box, a_box, gpu_order, wait_for

LEASE = "lease:1"
LEASE_ID = UUID(int=1)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A host on which lease 1 runs on the first GPU."""
    with a_box(tmp_path, watch_seconds=0.05) as box:
        box.carry_out(box.provision(box.intake()), subject=LEASE)
        assert box.last(MachineRunning).lease_id == LEASE_ID
        yield box


def look(box: Box) -> None:
    """One round of the watch, and what it leads to."""
    Watch(box.rig).look()
    box.settle()


def is_running(box: Box) -> bool:
    return box.machines.state("lease-1") is MachineState.RUNNING


def machine_state(box: Box) -> str:
    machine = box.rig.machines.get(LEASE_ID)
    assert machine is not None
    return machine.state


def test_a_lease_runs_through_its_grace(box: Box) -> None:
    box.now += timedelta(hours=1, seconds=59)
    look(box)
    assert is_running(box)


def test_an_overdue_machine_is_stopped_and_kept_for_its_release(box: Box) -> None:
    box.now += timedelta(hours=1, seconds=60)
    look(box)
    assert box.last(MachineStopped).cause == "deadline"
    assert machine_state(box) == "off"
    assert box.gpu_state() == "leased"
    look(box)
    assert len(box.events(MachineStopped)) == 1


def test_an_extension_keeps_the_machine_running(box: Box) -> None:
    box.deliver(Update(lease_id=LEASE_ID, ends_at=box.now + timedelta(hours=3)), subject=LEASE)
    box.now += timedelta(hours=2)
    look(box)
    assert is_running(box)


def test_an_overdue_machine_that_does_not_stop_is_not_tried_at_every_look(box: Box) -> None:
    box.machines.refuses = {"shutdown", "destroy"}
    box.now += timedelta(hours=2)
    watch = Watch(box.rig)
    for _ in range(3):
        watch.look()
        box.settle()
    assert is_running(box)
    assert len([plan for plan in box.rig.plans.latest(10) if plan.kind == "deadline"]) == 1


def test_a_guest_that_shut_itself_down_stays_off_and_keeps_its_lease(box: Box) -> None:
    watch = Watch(box.rig)
    watch.start()
    box.machines.stop_by_itself("lease-1", StopCause.GUEST)
    wait_for(lambda: box.events(MachineStopped))
    watch.stop(seconds=5)
    assert box.last(MachineStopped).cause == "guest"
    assert box.gpu_state() == "leased"
    box.machines.lose_power()
    box.boot_id = "second boot"
    box.restart()
    box.settle()
    assert not is_running(box)


@pytest.mark.parametrize("cause", [StopCause.CRASHED, StopCause.DESTROYED, StopCause.FAILED])
def test_a_machine_that_broke_is_a_failure(box: Box, cause: StopCause) -> None:
    watch = Watch(box.rig)
    watch.start()
    box.machines.stop_by_itself("lease-1", cause)
    wait_for(lambda: box.events(MachineStopped))
    watch.stop(seconds=5)
    assert box.last(MachineStopped).cause == "failure"


def test_a_stop_by_command_is_reported_once(box: Box) -> None:
    box.carry_out(Power(lease_id=LEASE_ID, action="off", shutdown_seconds=5), subject=LEASE)
    look(box)
    assert [event.cause for event in box.events(MachineStopped)] == ["command"]
    box.carry_out(Power(lease_id=LEASE_ID, action="on", shutdown_seconds=5), subject=LEASE)
    assert is_running(box)
    assert box.machines.creations == {"lease-1": 2}
    assert box.machines.definitions == {"lease-1": 1}


def test_a_restart_ends_with_a_running_machine(box: Box) -> None:
    box.carry_out(Power(lease_id=LEASE_ID, action="restart", shutdown_seconds=0), subject=LEASE)
    assert is_running(box)
    assert box.machines.creations == {"lease-1": 2}
    assert len(box.events(MachineRunning)) == 2
    assert box.events(MachineStopped) == []


def test_after_a_reboot_of_the_host_the_same_machine_comes_back(box: Box) -> None:
    box.machines.lose_power()
    box.boot_id = "second boot"
    box.restart()
    box.settle()
    assert is_running(box)
    assert box.machines.definitions == {"lease-1": 1}
    assert len(box.events(MachineRunning)) == 2
    assert box.events(MachineStopped) == []
    assert box.last(Inventory).restarted


def test_after_a_reboot_an_exchanged_card_fails_the_machine(box: Box) -> None:
    order = gpu_order()
    card = box.rig.bus.card(order.address)
    expected = msgspec.structs.replace(order, fingerprint=card.fingerprint, tenure=2)
    box.carry_out(box.release(order), subject=LEASE)
    box.carry_out(box.provision(expected, lease=2), subject="lease:2")
    box.machines.lose_power()
    inject(box.bus_directory, Fault(operation="reset", address=order.address, kind="wrong-identity"))
    box.rig.bus.reset_rungs(card)[0].run()
    box.boot_id = "second boot"
    box.restart()
    box.settle()
    assert box.last(MachineStopped).cause == "failure"
    assert box.last(GpuFailed).gpu_id == order.gpu_id


def test_a_machine_that_stopped_while_nobody_looked_was_shut_down_by_its_guest(box: Box) -> None:
    box.machines.lose_power()
    box.restart()
    assert box.last(MachineStopped).cause == "guest"
    assert not is_running(box)


def test_a_machine_suspended_with_the_worker_comes_back_with_it(box: Box) -> None:
    suspend_machines(box.rig)
    assert not is_running(box)
    box.restart()
    box.settle()
    assert is_running(box)
    assert box.events(MachineStopped) == []


def test_a_machine_whose_lease_ended_while_the_worker_was_away_stays_off(box: Box) -> None:
    suspend_machines(box.rig)
    box.now += timedelta(hours=2)
    box.restart()
    box.settle()
    assert not is_running(box)
    assert box.last(MachineStopped).cause == "deadline"


def test_reports_of_what_nobody_asked_for_carry_the_latest_generation(box: Box) -> None:
    box.deliver(Update(lease_id=LEASE_ID, ends_at=box.now + timedelta(hours=3)), subject=LEASE, generation=9)
    box.machines.lose_power()
    box.restart()
    stopped = [report for report in box.reports() if isinstance(report.event, MachineStopped)]
    assert [(report.subject, report.generation) for report in stopped] == [(LEASE, 9)]


def test_with_a_lost_journal_machines_are_kept_and_gpus_are_unknown(box: Box) -> None:
    box.close()
    for path in box.config.state_directory.glob("journal*"):
        path.unlink()
    box.open()
    box.start()
    assert is_running(box)
    assert [facts.lease_id for facts in box.last(Inventory).machines] == [LEASE_ID]
    assert box.rig.gpus.all() == []
    box.restart()
    assert is_running(box)
    box.carry_out(box.provision(gpu_order(tenure=2), lease=2), subject="lease:2")
    assert "no record of a scrub" in box.last(ProvisionFailed).reason
    box.carry_out(box.release(gpu_order()), subject=LEASE)
    assert box.last(MachineGone).lease_id == LEASE_ID
    assert not is_running(box)


def test_an_orphan_of_ours_is_removed_and_a_strangers_machine_is_left(box: Box) -> None:
    stranger = MachineFacts("stranger", uuid4(), MachineState.RUNNING, None, None, frozenset())
    address = box.intake(1).address
    orphan = replace(stranger, name="orphan", lease_id=uuid4(), pci_addresses=frozenset({address}))
    box.machines.add_foreign("stranger", stranger)
    box.machines.add_foreign("orphan", orphan)
    disk = box.config.disks_directory / f"{uuid4()}.qcow2"
    disk.parent.mkdir(parents=True)
    disk.write_bytes(b"left behind")
    box.restart()
    assert {facts.name for facts in box.machines.machines()} == {"stranger", "lease-1"}
    assert box.last(Ordered).gpu_id == gpu_order(1).gpu_id
    assert not disk.exists()
    assert ("stranger", None) in {(facts.name, facts.lease_id) for facts in box.last(Inventory).machines}


def test_a_vanished_gpu_is_reported_missing_once(box: Box) -> None:
    order = box.intake(1)
    inject(box.bus_directory, Fault(operation="card", address=order.address, kind="vanish"))
    look(box)
    look(box)
    missing = [event for event in box.events(GpuFailed) if event.missing]
    assert [event.gpu_id for event in missing] == [order.gpu_id]
    assert box.gpu_state(1) == "missing"
    assert order.address not in {card.address for card in box.last(Inventory).cards}


def test_inventory_is_reported_when_something_changes(box: Box) -> None:
    watch = Watch(box.rig)
    watch.look()
    count = len(box.events(Inventory))
    watch.look()
    assert len(box.events(Inventory)) == count
    box.machines.lose_power()
    watch.look()
    assert len(box.events(Inventory)) == count + 1


def test_no_console_outlives_the_worker(box: Box) -> None:
    session = uuid4()
    box.deliver(
        OpenConsole(lease_id=LEASE_ID, session_id=session, gateway_url="wss://gateway/1", sealed_token=""),
        subject=LEASE,
    )
    box.restart()
    assert box.last(ConsoleClosed).session_id == session
    box.restart()
    assert len(box.events(ConsoleClosed)) == 1


def test_a_release_closes_consoles_before_it_stops_the_machine(box: Box) -> None:
    box.carry_out(box.release(), subject=LEASE)
    assert box.closed_leases == [LEASE_ID]


def test_an_overdue_machine_is_stopped_whatever_the_journal_thinks_of_it(box: Box) -> None:
    """A start, or a release, may have failed halfway."""
    box.rig.machines.set_state(LEASE_ID, "off")
    box.now += timedelta(hours=2)
    look(box)
    assert not is_running(box)


def test_a_machine_whose_release_failed_stays_the_releases_alone(box: Box) -> None:
    box.machines.refuses = {"destroy"}
    box.carry_out(box.release(), subject=LEASE)
    box.restart()
    assert machine_state(box) == "releasing"
    box.machines.refuses = set()
    box.now += timedelta(hours=2)
    look(box)
    assert not is_running(box)
    assert machine_state(box) == "releasing"


def test_the_watch_goes_on_after_an_error_that_nobody_foresaw(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(**_: object) -> None:
        failed.set()
        raise FileNotFoundError("a card was removed while it was looked at")

    monkeypatch.setattr(box.rig.bus, "cards", fail)
    watch = Watch(box.rig)
    watch.start()
    assert failed.wait(5)
    box.machines.stop_by_itself("lease-1", StopCause.CRASHED)
    wait_for(lambda: box.events(MachineStopped))
    watch.stop(seconds=5)


def test_a_hypervisor_that_stays_away_ends_the_worker(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection does not come back by itself; the next start opens another."""
    monkeypatch.setattr("hosts.agent.watch.HYPERVISOR_PATIENCE_SECONDS", 0.1)
    died = threading.Event()
    watch = Watch(box.rig, on_death=died.set)
    watch.start()
    assert not died.wait(0.3)
    box.machines.refuses = {"machines"}
    assert died.wait(5)
    watch.stop(seconds=5)
    box.machines.refuses = set()


def test_a_call_that_was_given_up_does_not_end_the_worker(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one goes by another connection."""
    monkeypatch.setattr("hosts.agent.watch.HYPERVISOR_PATIENCE_SECONDS", 0.0)
    died, looked = threading.Event(), threading.Semaphore(0)

    def give_up() -> list[MachineFacts]:
        looked.release()
        raise HypervisorSilent("Cannot list the machines: no answer within 120 s.")

    monkeypatch.setattr(box.machines, "machines", give_up)
    watch = Watch(box.rig, on_death=died.set)
    watch.start()
    assert looked.acquire(timeout=5)
    assert looked.acquire(timeout=5)
    watch.stop(seconds=5)
    assert not died.is_set()


def test_after_a_call_that_was_given_up_the_next_connection_has_all_the_patience(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call alone has taken longer than that."""
    monkeypatch.setattr("hosts.agent.watch.HYPERVISOR_PATIENCE_SECONDS", 60.0)
    died, looked, errors = threading.Event(), threading.Semaphore(0), iter([HypervisorSilent("No answer.")])

    def fail() -> list[MachineFacts]:
        looked.release()
        raise next(errors, HypervisorError("Connection refused."))

    monkeypatch.setattr(box.machines, "machines", fail)
    watch = Watch(box.rig, on_death=died.set)
    watch._answered_at -= 120.0
    watch.start()
    for _ in range(3):
        assert looked.acquire(timeout=5)
    watch.stop(seconds=5)
    assert not died.is_set()


def test_a_card_that_cannot_be_read_does_not_hide_the_others(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, lost = box.intake(1), box.intake(2)
    read = box.rig.bus.card

    def fail_for_one(address: str) -> Card:
        if address == bad.address:
            raise BusError("The card takes no configuration.")
        return read(address)

    inject(box.bus_directory, Fault(operation="card", address=lost.address, kind="vanish"))
    monkeypatch.setattr(box.rig.bus, "card", fail_for_one)
    report_lost_gpus(box.rig)
    assert box.gpu_state(2) == "missing"


def test_machines_are_adopted_even_if_the_first_start_with_a_new_journal_was_cut_short(box: Box) -> None:
    box.close()
    for path in box.config.state_directory.glob("journal*"):
        path.unlink()
    box.open()
    box.machines.refuses = {"machines"}
    with pytest.raises(HypervisorError):
        box.start()
    box.machines.refuses = set()
    box.restart()
    assert is_running(box)
