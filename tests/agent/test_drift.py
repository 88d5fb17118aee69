"""What is not as it should be, on a period and at the start: mended if it is ours, told in any case."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from hosts.agent import drift
from hosts.agent.cli import tables
from hosts.agent.drift_notes import differences_found, seen
from hosts.agent.machines import MachineFacts, MachineState
from hosts.agent.mending import mend
from hosts.agent.simulated import VFIO_DRIVER, Fault, inject, reboot, take_for_host
from hosts.agent.standing import doctor, status
from hosts.agent.watch import Watch
from hosts.protocol.checkup import CheckUp
from hosts.protocol.findings import DRIFT_TOPICS
from hosts.protocol.messages import (
    GpuFailed,
    Inspect,
    Intake,
    MachineGone,
    MachineRunning,
    Ordered,
    Power,
    ProvisionFailed,
    Scrubbed,
    ScrubPolicy,
)
from tests.agent.host_in_a_box import Box, a_box, gpu_order

LEASE = "lease:1"
LEASE_ID = UUID(int=1)
STRANGER = MachineFacts("stranger", uuid4(), MachineState.RUNNING, None, None, frozenset())


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A host on which lease 1 runs on the first GPU, and the second is clean."""
    with a_box(tmp_path) as box:
        box.intake(1)
        box.carry_out(box.provision(box.intake()), subject=LEASE)
        yield box


def found(box: Box) -> list[tuple[str, str, str]]:
    """Look once and let everything follow that follows; (code, outcome, verdict) of what was found."""
    mend(box.rig)
    box.settle()
    differences = differences_found(box.rig)
    assert all(each.read and each.read[0].value for each in differences)
    return [(each.code, each.outcome, each.verdict) for each in differences]


def orphan(*, gpu: int = 1) -> MachineFacts:
    addresses = frozenset({gpu_order(gpu).address})
    return replace(STRANGER, name="orphan", lease_id=uuid4(), pci_addresses=addresses)


def test_a_host_in_order_has_no_differences(box: Box) -> None:
    assert found(box) == []


def test_a_machine_without_a_lease_is_removed_and_its_gpu_scrubbed_again(box: Box) -> None:
    box.machines.add_foreign("orphan", orphan())
    scrubs = len(box.events(Scrubbed))
    assert found(box) == [("stray-machine", "removed", "warn")]
    assert {facts.name for facts in box.machines.machines()} == {"lease-1"}
    assert box.last(Ordered).by == "leasehold-host"
    assert len(box.events(Scrubbed)) == scrubs + 1
    assert box.gpu_state(1) == "clean"
    assert found(box) == []


def test_a_machine_without_a_lease_that_does_not_go_is_told_and_tried_again(box: Box) -> None:
    box.machines.add_foreign("orphan", orphan())
    box.machines.refuses = {"destroy"}
    assert found(box) == [("stray-machine", "left", "fail")]
    assert box.gpu_state(1) == "quarantined"  # the scrub that was ordered found the machine running with it
    box.machines.refuses = set()
    assert found(box) == [("stray-machine", "removed", "warn")]


def test_somebody_elses_machine_is_left_alone_and_the_gpu_it_uses_is_quarantined(box: Box) -> None:
    card = box.rig.bus.card(gpu_order(1).address)
    box.machines.add_foreign("stranger", replace(STRANGER, pci_addresses=frozenset(card.functions)))
    assert found(box) == found(box) == [("foreign-use", "quarantined", "fail")]
    assert box.machines.state("stranger") is MachineState.RUNNING
    (failed,) = box.events(GpuFailed)
    assert (failed.step, "stranger" in failed.reason) == ("reconcile", True)
    box.carry_out(box.provision(gpu_order(1, tenure=2), lease=2), subject="lease:2")
    assert "in use by the machine stranger" in box.last(ProvisionFailed).reason


def test_somebody_elses_machine_with_other_devices_is_no_difference(box: Box) -> None:
    box.machines.add_foreign("stranger", STRANGER)
    box.machines.add_foreign("off", replace(orphan(), name="off", lease_id=None, state=MachineState.OFF))
    assert found(box) == []


def test_a_clean_gpu_that_a_driver_of_the_host_took_is_taken_back_and_scrubbed(box: Box) -> None:
    address = gpu_order(1).address
    take_for_host(box.bus_directory, address)
    scrubs = len(box.events(Scrubbed))
    assert found(box) == [("host-use", "scrubbed", "warn")]
    assert box.rig.bus.is_bound(box.rig.bus.card(address))
    assert len(box.events(Scrubbed)) == scrubs + 1
    assert box.gpu_state(1) == "clean"


def test_a_gpu_that_the_host_goes_on_using_is_quarantined(box: Box) -> None:
    address = gpu_order(1).address
    take_for_host(box.bus_directory, address)
    inject(box.bus_directory, Fault(operation="holders", address=address, kind="busy", times=0))
    found(box)
    assert box.gpu_state(1) == "quarantined"
    assert "Xwayland" in box.last(GpuFailed).reason


def test_a_gpu_whose_policy_is_forgotten_is_quarantined_rather_than_called_clean(box: Box) -> None:
    take_for_host(box.bus_directory, gpu_order(1).address)
    with box.rig.journal.transaction():
        box.rig.journal.execute("DELETE FROM plan")
    assert found(box) == [("host-use", "quarantined", "fail")]
    assert box.gpu_state(1) == "quarantined"
    assert "not known here any more" in box.last(GpuFailed).reason


def test_a_leased_gpu_that_the_host_took_is_bound_again_when_its_machine_starts(box: Box) -> None:
    box.carry_out(Power(lease_id=LEASE_ID, action="off", shutdown_seconds=5), subject=LEASE)
    take_for_host(box.bus_directory, gpu_order().address)
    assert found(box) == [("host-use", "leased", "warn")]
    assert box.gpu_state() == "leased"
    box.carry_out(Power(lease_id=LEASE_ID, action="on", shutdown_seconds=5), subject=LEASE)
    assert len(box.events(MachineRunning)) == 2
    assert found(box) == []


def test_a_disk_without_a_lease_is_destroyed(box: Box) -> None:
    disk = box.config.disks_directory / f"{uuid4()}.qcow2"
    disk.parent.mkdir(parents=True)
    for path in (disk, disk.with_name(f"{disk.name}.key")):
        path.write_bytes(b"left behind")
    (disk.parent / "notes.txt").write_text("somebody else's")
    assert found(box) == [("stray-disk", "destroyed", "warn")]
    assert [path.name for path in disk.parent.iterdir()] == ["notes.txt"]


def test_a_disk_that_cannot_be_destroyed_is_told(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    (box.config.disks_directory / f"{uuid4()}.qcow2").mkdir(parents=True)
    monkeypatch.setattr("hosts.agent.disks._overwrite_start", refuse)
    assert found(box) == [("stray-disk", "left", "fail")]


def test_a_lease_whose_machine_is_gone_is_told(box: Box) -> None:
    box.machines.destroy("lease-1")
    box.machines.undefine("lease-1")
    assert found(box) == [("lost-machine", "lost", "fail")]
    box.carry_out(box.release(), subject=LEASE)
    assert box.last(MachineGone).lease_id == LEASE_ID
    assert found(box) == []


def test_a_scrub_machine_that_was_left_is_removed(box: Box) -> None:
    left = replace(STRANGER, name="scrub-left", scrubs=gpu_order(1).address)
    box.machines.add_foreign("scrub-left", left)
    assert found(box) == [("stray-scrub-machine", "removed", "warn")]
    box.machines.add_foreign("scrub-left", left)
    box.machines.refuses = {"destroy"}
    assert found(box) == [("stray-scrub-machine", "left", "fail")]


@pytest.mark.parametrize("state", ["leased", "scrubbing"])
def test_a_gpu_whose_state_nothing_explains_is_scrubbed_again(box: Box, state: str) -> None:
    order = gpu_order(1)
    box.rig.gpus.put(order, "leased" if state == "leased" else "scrubbing", lease_id=uuid4())
    assert found(box) == [("unexplained", "scrubbed", "warn")]
    assert box.gpu_state(1) == "clean"
    assert box.last(Ordered).gpu_id == order.gpu_id


def test_a_card_in_which_the_kernel_hangs_is_told_until_the_host_is_rebooted(box: Box) -> None:
    hang = Fault(operation="reset", address=gpu_order(1).address, kind="hang")
    inject(box.bus_directory, hang)
    box.carry_out(box.release(gpu_order(1), lease=2), subject="lease:2")
    assert box.gpu_state(1) == "quarantined"
    assert found(box) == [("hang", "hangs", "fail")]
    reboot(box.bus_directory)
    assert found(box) == []


def test_a_doubt_is_written_with_what_follows_from_it_or_not_at_all(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in between would leave a dirty GPU that the portal goes on offering."""

    def crash(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    take_for_host(box.bus_directory, gpu_order(1).address)
    with monkeypatch.context() as patch:
        patch.setattr(box.rig.plans, "add", crash)
        with pytest.raises(sqlite3.OperationalError):
            mend(box.rig)
    assert (box.gpu_state(1), box.events(Ordered)) == ("clean", [])
    assert found(box) == [("host-use", "scrubbed", "warn")]
    assert box.last(Ordered).gpu_id == gpu_order(1).gpu_id


@pytest.mark.parametrize("foreign", [True, False])
def test_a_gpu_that_was_used_while_its_lease_waited_to_begin_is_not_started(box: Box, foreign: bool) -> None:
    """The other machine is gone again when the plan gets its turn: what it left is still there."""
    address = gpu_order(1).address
    box.executor.stop(seconds=5)
    box.deliver(box.provision(gpu_order(1), lease=2), subject="lease:2")
    if foreign:
        box.machines.add_foreign("stranger", replace(STRANGER, pci_addresses=frozenset({address})))
    else:
        take_for_host(box.bus_directory, address)
    mend(box.rig)
    box.machines.lose_power()
    take_for_host(box.bus_directory, address, VFIO_DRIVER)
    box.restart()
    box.settle()
    assert "dirty" in box.last(ProvisionFailed).reason
    assert "lease-2" not in box.machines.creations


@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize("step", ["define", "start"])
def test_a_gpu_that_was_used_after_it_was_identified_is_not_started(
    tmp_path: Path, step: str, foreign: bool
) -> None:
    def use_meanwhile(boundary: str) -> None:
        if boundary != f"provision:{step}:before":
            return
        address = gpu_order().address
        if foreign:
            host.machines.add_foreign("stranger", replace(STRANGER, pci_addresses=frozenset({address})))
        else:
            take_for_host(host.bus_directory, address)
        mend(host.rig)
        host.machines.lose_power()
        take_for_host(host.bus_directory, address, VFIO_DRIVER)

    with a_box(tmp_path, on_boundary=use_meanwhile) as host:
        host.carry_out(host.provision(host.intake()), subject=LEASE)
        failed = host.last(ProvisionFailed)
        assert (failed.step, "not this lease's any more" in failed.reason) == (step, True)
        host.carry_out(host.release(), subject=LEASE)
        assert host.gpu_state() == "clean"


def test_a_gpu_that_was_used_after_its_memory_was_read_is_not_called_clean(tmp_path: Path) -> None:
    def use_meanwhile(boundary: str) -> None:
        if boundary == "intake:reset-again:before":
            address = gpu_order().address
            host.machines.add_foreign("stranger", replace(STRANGER, pci_addresses=frozenset({address})))
            mend(host.rig)
            host.machines.lose_power()

    with a_box(tmp_path, on_boundary=use_meanwhile) as host:
        order = gpu_order()
        host.carry_out(Intake(gpu=order, scrub=ScrubPolicy()), subject=f"gpu:{order.gpu_id}")
        assert host.gpu_state() == "quarantined"
        assert "used by somebody else" in host.last(GpuFailed).reason
        assert host.events(Scrubbed) == []


def test_what_a_plan_is_at_work_on_is_left_to_it(box: Box) -> None:
    """Everything that could be found is: of a card that is planned, and of a lease that is."""
    facts = replace(orphan(), lease_id=LEASE_ID)
    left = replace(STRANGER, name="scrub-left", scrubs=gpu_order(1).address)
    box.executor.stop(seconds=5)
    box.deliver(box.release(gpu_order(0), gpu_order(1)), subject=LEASE)
    gpu = replace(box.rig.gpus.all()[0], state="leased", lease_id=uuid4())
    seen = drift.Seen([facts, left], {LEASE_ID}, {LEASE_ID}, {gpu.address: ("nouveau",)}, frozenset())
    written = drift.Written(box.rig.machines.kept(), [gpu], box.rig.plans.open())
    assert list(drift.differences(seen, written)) == []


def test_the_watch_looks_on_a_period_and_tells_the_portal_once(tmp_path: Path) -> None:
    with a_box(tmp_path, reconcile_seconds=0.001, inventory_seconds=3600) as box:
        box.carry_out(Inspect(), subject="host:box")  # the portal speaks protocol 2
        watch = Watch(box.rig)
        watch.look()
        before = len(box.events(CheckUp))
        box.machines.add_foreign("orphan", orphan())
        watch.look()
        watch.look()
        watch.look()
        told = [drift_in(event) for event in box.events(CheckUp)[before:]]
        assert told == [["stray-machine"], []]


def drift_in(event: CheckUp) -> list[str]:
    return [check.code for check in event.checks if check.code in DRIFT_TOPICS]


def test_it_is_known_where_each_difference_shows() -> None:
    assert all(seen(code, "0000:41:00.0", {"reason": "no"}) for code in DRIFT_TOPICS)


def test_status_and_doctor_show_what_was_found(box: Box) -> None:
    take_for_host(box.bus_directory, gpu_order(1).address)
    found(box)
    told = tables.show_status(status(box.rig))
    assert f"{gpu_order(1).address} GPU in the hands of the host: simdrm had it." in told
    codes = [check["code"] for check in doctor(box.rig)["checks"]]
    assert "host-use" in codes
    found(box)
    assert "Not as it should be" not in tables.show_status(status(box.rig))


def test_every_difference_has_words() -> None:
    made = {
        ("stray-machine", "removed"), ("stray-machine", "left"), ("stray-scrub-machine", "removed"),
        ("stray-scrub-machine", "left"), ("stray-disk", "destroyed"), ("stray-disk", "left"),
        ("stray-network", "removed"), ("stray-network", "left"),
        ("packet-filter", "restored"), ("packet-filter", "left"),
        ("lost-machine", "lost"), ("foreign-use", "quarantined"), ("foreign-use", "planned"),
        ("host-use", "leased"), ("host-use", "planned"),
        ("host-use", "scrubbed"), ("host-use", "quarantined"), ("unexplained", "scrubbed"),
        ("unexplained", "quarantined"), ("hang", "hangs"),
        ("restarted", "scrubbed"), ("restarted", "quarantined"), ("came-back", "scrubbed"),
        ("came-back", "quarantined"),
        ("divided-card", "restored"), ("divided-card", "other"), ("divided-card", "left"),
        ("left-over-slices", "removed"), ("left-over-slices", "left"),
    }  # fmt: skip
    worded = {(code, outcome) for code, topic in DRIFT_TOPICS.items() for outcome in topic.outcomes}
    assert worded == made
