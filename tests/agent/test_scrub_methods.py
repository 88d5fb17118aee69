"""Several methods in one plan on a whole host: what each adds to the record, what a crash leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts.agent.domain import DirectKernel
from hosts.agent.scrub_domain import ScrubMachineSpec, scrub_machine_xml
from hosts.agent.simulated import memory_file
from hosts.protocol.messages import GpuFailed, Intake, Scrubbed, ScrubEvidence, ScrubPolicy
from tests.agent import fake_appliance as fake
from tests.agent.fake_appliance import FakeAppliance, Manner
from tests.agent.host_in_a_box import Box, a_box, gpu_order

MIB = 1 << 20


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        yield box


def scrubbed(box: Box, manner: Manner, *methods: str) -> ScrubEvidence:
    """The evidence of an intake by these methods, on a GPU that held something."""
    order = gpu_order()
    memory = memory_file(box.bus_directory, order.address)
    with memory.open("r+b") as file:
        file.write(b"residue" * 1000)
    box.machines.appliance = FakeAppliance(memory, manner)
    goal = Intake(gpu=order, scrub=ScrubPolicy(methods=methods))
    box.carry_out(goal, subject=f"gpu:{order.gpu_id}")
    return box.last(Scrubbed).evidence


def test_what_all_methods_did_is_in_one_record(box: Box) -> None:
    evidence = scrubbed(box, fake.honest, "machine", "bar")
    assert (evidence.verdict, box.gpu_state()) == ("passed", "clean")
    machine, bar = evidence.methods
    assert (machine.name, machine.proven, machine.reached_bytes, machine.coverage) == (
        "machine", False, MIB, "full",
    )  # fmt: skip
    assert (bar.name, bar.proven, bar.reached_bytes) == ("bar", True, MIB)
    assert machine.digest != bar.digest
    assert evidence.witness is not None
    assert (evidence.witness.mismatches, evidence.witness.canaries_found) == (0, 0)


def test_a_machine_that_is_not_proven_on_this_card_never_suffices_alone(box: Box) -> None:
    evidence = scrubbed(box, fake.honest, "machine")
    assert evidence.witness is not None
    assert evidence.witness.mismatches == 0, "it is clean, but that is not proven"
    assert "The method 'machine' is not proven on 1234:a600: it never suffices alone." in evidence.reasons
    assert box.gpu_state() == "quarantined"


def test_a_machine_that_lies_is_caught_by_the_hosts_canaries(box: Box) -> None:
    evidence = scrubbed(box, fake.lying, "machine")
    assert evidence.witness is not None
    found = evidence.witness.canaries_found
    assert found >= 32, "those that the tenant's residue has not overwritten"
    assert f"{found} of 128 canaries survived the scrub." in evidence.reasons


def test_a_machine_that_fails_is_in_the_record_beside_what_worked(box: Box) -> None:
    evidence = scrubbed(box, fake.of_another_run, "machine", "bar")
    assert [bool(record.failure) for record in evidence.methods] == [True, False]
    assert len(evidence.reasons) == 1
    assert "stale or forged" in evidence.reasons[0]
    assert box.gpu_state() == "quarantined"
    assert box.machines.machines() == []


def a_leftover(box: Box) -> None:
    """A scrub machine of a worker that is no more."""
    spec = ScrubMachineSpec(
        address=gpu_order().address,
        memory_mib=64,
        boot=DirectKernel(kernel=Path("vmlinux"), initrd=Path("initrd.img"), cmdline=""),
        serial_log=box.directory / "leftover.log",
        domain_type="qemu",
    )
    box.machines.define(scrub_machine_xml(spec, []))
    box.machines.start(spec.name)


def test_a_worker_that_starts_removes_what_scrubbed_when_it_died(box: Box) -> None:
    a_leftover(box)
    box.restart()
    assert box.machines.machines() == []


def test_a_scrub_begins_by_removing_what_an_earlier_one_has_left(box: Box) -> None:
    a_leftover(box)
    assert scrubbed(box, fake.honest, "bar").verdict == "passed"
    assert not box.events(GpuFailed)
    assert box.machines.machines() == []


def test_a_scrub_machine_is_nobodys_lease(box: Box) -> None:
    """It is not adopted, not stopped at any deadline, and not reported as a lease's machine that was lost."""
    a_leftover(box)
    assert box.rig.machines.kept() == []
    assert [facts.scrubs for facts in box.machines.machines()] == [gpu_order().address]
