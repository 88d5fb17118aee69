"""A GPU becomes clean by a scrub, is leased to one machine, and is scrubbed again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from hosts.agent.machines import MachineFacts, MachineState
from hosts.agent.simulated import Fault, inject, memory_file, read_state, take_for_host
from hosts.protocol.messages import (
    Accepted,
    Fingerprint,
    GpuFailed,
    Intake,
    MachineGone,
    MachineRunning,
    ProvisionFailed,
    Refused,
    Scrubbed,
    ScrubPolicy,
    ScrubStarted,
    StepReport,
)
from tests.agent.host_in_a_box import Box, a_box, gpu_order, wait_for

LEASE = "lease:1"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        yield box


def test_intake_makes_an_unknown_gpu_clean_with_evidence(box: Box) -> None:
    order = box.intake()
    scrubbed = box.last(Scrubbed)
    assert (scrubbed.gpu_id, scrubbed.lease_id) == (order.gpu_id, None)
    assert scrubbed.evidence.verdict == "passed"
    assert scrubbed.evidence.witness is not None
    assert scrubbed.evidence.witness.canaries_planted == 128
    assert [record.name for record in scrubbed.evidence.methods] == ["bar"]
    assert len(scrubbed.evidence.resets) == 2
    assert [each.gpu_id for each in box.events(ScrubStarted)] == [order.gpu_id]


def test_provision_runs_the_machine_on_its_gpus(box: Box) -> None:
    gpus = box.intake(0), box.intake(1)
    box.carry_out(box.provision(*gpus), subject=LEASE)
    assert box.last(MachineRunning).lease_id.int == 1
    assert box.machines.creations == {"lease-1": 1}
    assert (box.gpu_state(0), box.gpu_state(1)) == ("leased", "leased")
    steps = [each for each in box.events(StepReport) if each.plan == "provision" and each.state == "done"]
    named = ["identify", "bind", "reserve", "connect", "define", "start", "confirm"]
    assert [each.step for each in steps] == named
    assert {(each.index, each.total) for each in steps} == {(n, 7) for n in range(1, 8)}


def test_release_ends_with_a_clean_gpu_and_nothing_left(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order), subject=LEASE)
    assert any(memory_file(box.bus_directory, order.address).read_bytes())
    box.carry_out(box.release(order), subject=LEASE)
    assert box.last(MachineGone).lease_id.int == 1
    assert box.last(Scrubbed).lease_id == box.last(MachineGone).lease_id
    assert box.gpu_state() == "clean"
    assert box.machines.machines() == []
    assert not any(memory_file(box.bus_directory, order.address).read_bytes())


def test_machine_gone_is_reported_before_the_scrub_begins(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order), subject=LEASE)
    box.carry_out(box.release(order), subject=LEASE)
    kinds = [type(report.event) for report in box.reports()]
    assert kinds.index(MachineGone) < len(kinds) - 1 - kinds[::-1].index(ScrubStarted)


def test_a_gpu_that_nobody_scrubbed_is_not_leased(box: Box) -> None:
    box.carry_out(box.provision(gpu_order()), subject=LEASE)
    failed = box.last(ProvisionFailed)
    assert failed.step == "identify"
    assert "no record of a scrub" in failed.reason
    assert box.machines.machines() == []


def test_a_gpu_is_leased_once_between_two_scrubs(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order), subject=LEASE)
    box.carry_out(box.provision(gpu_order(tenure=2), lease=2), subject="lease:2")
    assert "leased to another" in box.last(ProvisionFailed).reason
    assert box.machines.creations == {"lease-1": 1}


def test_the_next_lease_waits_for_the_scrub(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order), subject=LEASE)
    box.deliver(box.release(order), subject=LEASE)
    box.deliver(box.provision(gpu_order(tenure=2), lease=2), subject="lease:2")
    box.settle()
    assert box.last(MachineRunning).lease_id.int == 2
    kinds = [(type(report.event), report.subject) for report in box.reports()]
    assert kinds.index((Scrubbed, LEASE)) < kinds.index((MachineRunning, "lease:2"))


def test_a_changed_card_is_not_leased(box: Box) -> None:
    order = box.intake()
    expected = Fingerprint(vendor_device="1234:a600", serial="another")
    box.carry_out(box.provision(msgspec.structs.replace(order, fingerprint=expected)), subject=LEASE)
    assert "serial" in box.last(ProvisionFailed).reason
    assert box.last(GpuFailed).gpu_id == order.gpu_id
    assert box.machines.machines() == []


def test_a_card_that_vanished_is_reported_missing(box: Box) -> None:
    order = box.intake()
    inject(box.bus_directory, Fault(operation="card", address=order.address, kind="vanish"))
    box.carry_out(box.provision(order), subject=LEASE)
    assert box.last(GpuFailed).missing
    assert box.gpu_state() == "missing"


def test_a_bind_that_failed_once_is_tried_again(box: Box) -> None:
    order = box.intake()
    with_host = read_state(box.bus_directory)
    assert set(with_host.cards[order.address].drivers.values()) == {"vfio-pci"}
    inject(box.bus_directory, Fault(operation="bind", address=gpu_order(1).address, kind="error"))
    box.intake(1)
    failed = [each for each in box.events(StepReport) if each.state == "failed"]
    assert [(each.step, each.attempt) for each in failed] == [("bind", 1)]


def test_a_wedged_card_is_not_touched_again(box: Box) -> None:
    order = gpu_order()
    inject(box.bus_directory, Fault(operation="bind", address=order.address, kind="hang", times=0))
    box.carry_out(box.release(order), subject=LEASE)
    attempts = [each for each in box.events(StepReport) if each.step == "bind" and each.state == "started"]
    assert len(attempts) == 1
    assert box.last(GpuFailed).step == "bind"
    assert box.gpu_state() == "quarantined"


def test_a_scrub_that_leaves_something_behind_quarantines_the_gpu(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order), subject=LEASE)
    inject(box.bus_directory, Fault(operation="memory", address=order.address, kind="partial", times=0))
    box.carry_out(box.release(order), subject=LEASE)
    assert box.last(Scrubbed).evidence.verdict == "failed"
    assert box.gpu_state() == "quarantined"
    box.carry_out(box.provision(gpu_order(tenure=2), lease=2), subject="lease:2")
    assert "quarantined" in box.last(ProvisionFailed).reason


def test_a_scrubber_that_is_not_installed_fails_the_gpu(box: Box) -> None:
    box.carry_out(box.release(scrub=ScrubPolicy(methods=("bar", "vendor"))), subject=LEASE)
    assert "not installed" in box.last(GpuFailed).reason
    assert box.gpu_state() == "quarantined"


def test_a_release_of_what_was_never_provisioned_is_harmless(box: Box) -> None:
    box.carry_out(box.release(), subject=LEASE)
    assert box.events(Refused) == []
    assert box.last(MachineGone).lease_id.int == 1
    assert box.gpu_state() == "clean"


def test_a_released_lease_is_not_provisioned_again(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.release(order), subject=LEASE)
    box.carry_out(box.provision(order), subject=LEASE)
    assert "released" in box.last(Refused).reason
    assert box.machines.machines() == []


def test_a_machine_that_cannot_be_stopped_keeps_its_gpus_from_the_scrub(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order), subject=LEASE)
    box.machines.refuses = {"destroy"}
    box.carry_out(box.release(order), subject=LEASE)
    assert box.last(GpuFailed).step == "stop"
    assert box.events(MachineGone) == []
    assert box.gpu_state() == "leased"
    box.machines.refuses = set()
    box.carry_out(box.release(order), subject=LEASE)
    assert box.last(MachineGone).lease_id.int == 1
    assert box.gpu_state() == "clean"


def test_a_failed_start_is_reported_and_waits_for_the_release(box: Box) -> None:
    order = box.intake()
    box.machines.refuses = {"start"}
    box.carry_out(box.provision(order), subject=LEASE)
    assert box.last(ProvisionFailed).step == "start"
    assert box.gpu_state() == "leased"
    box.carry_out(box.release(order), subject=LEASE)
    assert box.gpu_state() == "clean"


def test_an_image_with_another_digest_is_not_started(box: Box) -> None:
    order = box.intake()
    (box.directory / "images" / "tenant" / "vmlinux").write_bytes(b"another kernel")
    box.carry_out(box.provision(order), subject=LEASE)
    assert box.last(ProvisionFailed).step == "define"
    assert box.machines.machines() == []


def test_a_release_overtakes_a_provision_between_its_steps(tmp_path: Path) -> None:
    def release_at_bind(boundary: str) -> None:
        if boundary == "provision:bind:before":
            host.deliver(host.release(gpu_order()), subject=LEASE)

    with a_box(tmp_path, on_boundary=release_at_bind) as host:
        order = host.intake()
        host.carry_out(host.provision(order), subject=LEASE)
        assert host.machines.creations == {}
        assert host.last(MachineGone).lease_id.int == 1
        assert host.gpu_state() == "clean"


def test_a_tenure_never_goes_down(box: Box) -> None:
    """An intake is accepted, at the next tenure, while the scrub of the last one ends."""
    box.rig.gpus.put(gpu_order(tenure=5), "dirty", lease_id=None)
    box.rig.gpus.put(gpu_order(tenure=4), "quarantined", lease_id=None)
    gpu = box.rig.gpus.get(gpu_order().gpu_id)
    assert gpu is not None
    assert (gpu.state, gpu.tenure) == ("quarantined", 5)


def test_a_reset_that_was_cut_short_is_counted(tmp_path: Path) -> None:
    died: list[str] = []

    def die_once(boundary: str) -> None:
        if boundary == "intake:reset:after" and not died:
            died.append(boundary)
            host.executor._stopping = True
            raise InterruptedError

    with a_box(tmp_path, on_boundary=die_once) as host:
        host.executor.runner._fail = lambda *_: None  # type: ignore[method-assign]  # as a killed worker
        host.deliver(Intake(gpu=gpu_order(), scrub=ScrubPolicy()), subject="gpu:1")
        wait_for(lambda: died)
        host.restart()
        host.settle()
        first, second = host.last(Scrubbed).evidence.resets[-2:]
        assert first.attempts == second.attempts + 1
        assert "cut short" in first.failures[-1]


def test_what_the_guest_wrote_on_its_serial_port_goes_with_it(box: Box) -> None:
    """Logs that the hypervisor has rotated, too."""
    logs = [box.config.machines_directory / f"{UUID(int=1)}.log{suffix}" for suffix in ("", ".0", ".1")]
    box.carry_out(box.provision(box.intake()), subject=LEASE)
    for log in logs:
        log.write_text("a tenant's words")
    box.carry_out(box.release(), subject=LEASE)
    assert not any(log.exists() for log in logs)


def test_every_accepted_command_is_answered_once(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order, ends_at=box.now + timedelta(hours=2)), subject=LEASE)
    answered = [report.subject for report in box.reports() if isinstance(report.event, Accepted)]
    assert answered == [f"gpu:{order.gpu_id}", LEASE]


def test_a_card_that_somebody_elses_machine_uses_is_not_taken(box: Box) -> None:
    order = box.intake()
    used = frozenset({box.rig.bus.card(order.address).functions[1]})
    box.machines.add_foreign(
        "stranger", MachineFacts("stranger", uuid4(), MachineState.RUNNING, None, None, used)
    )
    box.carry_out(box.provision(order), subject=LEASE)
    failed = box.last(ProvisionFailed)
    assert (failed.step, "in use by the machine stranger" in failed.reason) == ("identify", True)
    assert box.machines.state("stranger") is MachineState.RUNNING


def test_a_card_that_a_driver_of_the_host_has_had_is_not_clean(box: Box) -> None:
    """Whatever the journal says: it was scrubbed before that."""
    order = box.intake()
    take_for_host(box.bus_directory, order.address)
    box.carry_out(box.provision(order), subject=LEASE)
    failed = box.last(ProvisionFailed)
    assert (failed.step, "not known to be clean: simdrm has it" in failed.reason) == ("identify", True)
