"""What is refused changes nothing and says why; what is asked twice is harmless."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from nacl.signing import SigningKey

from hosts.agent.acceptance import REFUSALS_AT_ONCE
from hosts.protocol.codec import encode
from hosts.protocol.messages import (
    Accepted,
    Inspect,
    Inventory,
    MachineRunning,
    OpenConsole,
    Power,
    Receipt,
    Refused,
    Update,
)
from hosts.protocol.signing import REPORT, Signer
from tests.agent.host_in_a_box import HOST, Box, Control, a_box, gpu_order

LEASE = "lease:1"
LEASE_ID = UUID(int=1)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        yield box


def assert_untouched(box: Box) -> None:
    assert box.machines.machines() == []
    assert box.rig.machines.kept() == []
    assert box.rig.plans.latest(10) == []
    assert box.rig.gpus.all() == []


def test_a_forged_command_is_refused_and_counts_for_the_host(box: Box) -> None:
    forger = Control(key=SigningKey.generate())
    box.acceptance.deliver(forger.envelope(box.provision(), subject=LEASE))
    report = box.reports()[-1]
    assert isinstance(report.event, Refused)
    assert (report.subject, report.command_id) == (f"host:{HOST}", None)
    assert_untouched(box)


def test_a_changed_envelope_is_refused(box: Box) -> None:
    envelope = box.control.envelope(box.provision(), subject=LEASE)
    place = envelope.index('"body":"') + 40
    other = "A" if envelope[place] != "A" else "B"
    box.acceptance.deliver(envelope[:place] + other + envelope[place + 1 :])
    assert "signature" in box.last(Refused).reason
    assert_untouched(box)


def test_a_signature_made_for_reports_is_refused(box: Box) -> None:
    command = box.control.command(box.provision(), subject=LEASE)
    box.acceptance.deliver(Signer(box.control.key, REPORT).sign(encode(command)))
    assert "signature" in box.last(Refused).reason
    assert_untouched(box)


@pytest.mark.parametrize("text", ["", "{}", "no JSON", '{"key_id":1}'])
def test_what_is_not_an_envelope_is_refused(box: Box, text: str) -> None:
    box.acceptance.deliver(text)
    assert box.last(Refused).reason
    assert_untouched(box)


def test_a_command_for_another_host_is_refused(box: Box) -> None:
    box.deliver(box.provision(), subject=LEASE, host="another")
    assert "another" in box.last(Refused).reason
    assert_untouched(box)


def test_a_command_for_a_lost_journal_is_refused_until_it_is_sent_anew(tmp_path: Path) -> None:
    """With its journal the host has lost what it has carried out: an earlier sending may be one of these."""
    with a_box(tmp_path / "before") as box:
        order, journal = box.intake(), box.rig.journal.journal_id
        command = box.control.command(box.provision(order), subject=LEASE, journal_id=journal)
        box.acceptance.deliver(box.control.sign(command))
        box.settle()
        box.carry_out(box.release(order), subject=LEASE, journal_id=journal)
    with a_box(tmp_path / "after") as fresh:
        fresh.control = box.control
        fresh.restart()
        fresh.intake()
        known = fresh.rig.gpus.all()
        fresh.acceptance.deliver(box.control.sign(command))
        assert "earlier journal" in fresh.last(Refused).reason
        assert not fresh.last(Refused).final
        assert fresh.rig.machines.kept() == []
        assert fresh.rig.gpus.all() == known
        anew = {"journal_id": fresh.rig.journal.journal_id}
        fresh.deliver(fresh.provision(order, lease=2), subject="lease:2", **anew)
        assert fresh.last(Accepted) == Accepted()
        assert [machine.subject for machine in fresh.rig.machines.kept()] == ["lease:2"]


def test_a_command_that_comes_late_is_refused(box: Box) -> None:
    box.deliver(box.provision(), subject=LEASE, expires_at=box.now)
    assert "expired" in box.last(Refused).reason
    assert not box.last(Refused).final
    assert_untouched(box)


def test_a_newer_protocol_is_refused(box: Box) -> None:
    box.deliver(box.provision(), subject=LEASE, protocol=99)
    assert "99" in box.last(Refused).reason
    assert_untouched(box)


def test_a_lower_generation_is_refused_after_a_higher_one(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.release(order), subject=LEASE, generation=5)
    box.carry_out(box.provision(order), subject=LEASE, generation=4)
    assert "Generation 5" in box.last(Refused).reason
    assert box.machines.machines() == []
    assert box.gpu_state() == "clean"


def test_a_lower_tenure_is_refused(box: Box) -> None:
    box.intake(tenure=7)
    box.carry_out(box.provision(gpu_order(tenure=6)), subject=LEASE)
    assert "tenure 7" in box.last(Refused).reason
    assert box.gpu_state() == "clean"
    assert box.machines.machines() == []


def test_another_leases_gpu_is_not_released(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order), subject=LEASE)
    box.carry_out(box.release(order, lease=2), subject="lease:2")
    assert "is leased to" in box.last(Refused).reason
    assert box.gpu_state() == "leased"


def test_another_name_for_a_leased_card_does_not_help(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order), subject=LEASE)
    alias = type(order)(gpu_id=uuid4(), tenure=9, address=order.address)
    box.carry_out(box.release(alias, lease=2), subject="lease:2")
    assert "is leased to" in box.last(Refused).reason


def test_the_same_command_twice_creates_once_and_is_answered_again(box: Box) -> None:
    order = box.intake()
    envelope = box.deliver(box.provision(order), subject=LEASE)
    box.settle()
    before = len(box.rig.plans.latest(100))
    box.acceptance.deliver(envelope)
    box.settle()
    assert len(box.rig.plans.latest(100)) == before
    assert box.machines.creations == {"lease-1": 1}
    assert len(box.events(MachineRunning)) == 2
    assert box.reports()[-1].sequence == len(box.reports())


def test_a_command_repeated_before_it_was_carried_out_is_accepted_again(tmp_path: Path) -> None:
    box = Box(tmp_path)
    envelope = box.deliver(box.provision(), subject=LEASE)
    box.acceptance.deliver(envelope)
    assert len(box.events(Accepted)) == 2
    assert len(box.rig.plans.open()) == 1
    box.close()


def test_refusals_are_bounded(box: Box) -> None:
    for _ in range(REFUSALS_AT_ONCE * 3):
        box.acceptance.deliver("rubbish")
    assert REFUSALS_AT_ONCE <= len(box.events(Refused)) <= REFUSALS_AT_ONCE + 5


def test_power_and_update_need_a_machine(box: Box) -> None:
    box.deliver(Power(lease_id=LEASE_ID, action="on", shutdown_seconds=0), subject=LEASE)
    box.deliver(Update(lease_id=LEASE_ID, ends_at=box.now), subject=LEASE)
    assert len(box.events(Refused)) == 2
    assert_untouched(box)


def test_a_console_needs_a_running_machine_and_opens_once(box: Box) -> None:
    order = box.intake()
    console = OpenConsole(
        lease_id=LEASE_ID, session_id=uuid4(), gateway_url="wss://gateway/1", sealed_token="sealed"
    )
    box.deliver(console, subject=LEASE)
    assert box.consoles == []
    box.carry_out(box.provision(order), subject=LEASE)
    box.deliver(console, subject=LEASE)
    box.deliver(console, subject=LEASE)
    assert [goal.session_id for goal, _ in box.consoles] == [console.session_id]
    assert "opened before" in box.last(Refused).reason


def test_an_update_moves_the_end(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order), subject=LEASE)
    later = box.now + timedelta(hours=5)
    box.deliver(Update(lease_id=LEASE_ID, ends_at=later), subject=LEASE)
    machine = box.rig.machines.get(LEASE_ID)
    assert machine is not None
    assert machine.ends_at == later


def test_inspect_answers_with_the_inventory(box: Box) -> None:
    box.carry_out(Inspect(), subject=f"host:{HOST}")
    inventory = box.last(Inventory)
    assert len(inventory.cards) == 4
    assert inventory.simulated
    assert not inventory.restarted


def test_a_receipt_empties_the_spool_up_to_its_number(box: Box) -> None:
    box.intake()
    count = len(box.reports())
    journal_id = box.rig.journal.journal_id
    box.deliver(Receipt(journal_id=journal_id, through=count - 1), subject=f"receipt:{HOST}")
    assert [report.sequence for report in box.reports()] == [count]
    box.deliver(Receipt(journal_id=journal_id, through=count), subject=f"receipt:{HOST}")
    assert box.reports() == []
    box.carry_out(Inspect(), subject=f"host:{HOST}")
    assert box.reports()[0].sequence == count + 1


def test_a_receipt_for_another_journal_changes_nothing(box: Box) -> None:
    count = len(box.reports())
    box.deliver(Receipt(journal_id=uuid4(), through=1000), subject=f"receipt:{HOST}")
    assert len(box.reports()) == count
