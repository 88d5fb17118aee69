"""Reports on the portal's side: repeated, late, forged, unreadable, about others, out of order; ways out."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from django.db import transaction

from hosts.models import Gpu, ReceivedReport
from hosts.protocol import messages as m
from hosts.protocol.signing import COMMAND, REPORT, Signer
from leasing.fleet import readmit_gpu
from leasing.fsck import run_checks
from leasing.models import AuditEntry, Lease, Notification, OutboxMessage
from leasing.power import switch_power
from leasing.reports import receive_report
from leasing.reports.inbox import refuse_report
from tests.domain.test_first_lease import book, bring_up
from tests.world import World, inventory

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


def refusals() -> int:
    return AuditEntry.objects.filter(action="report.refuse").count()


def release(world: World) -> tuple[Lease, Gpu, OutboxMessage]:
    """A lease whose time is over and whose host has been told so."""
    lease = book(world, hours=1)
    gpu = bring_up(world, lease)
    world.tick(after=timedelta(hours=1))
    return lease, gpu, world.command(lease, "release")


def test_a_release_that_the_host_refuses_is_ordered_again() -> None:
    world = World(gpus=1)
    lease, _, first = release(world)
    world.host.say(m.Refused(reason="not now"), at=world.now, command=first)
    world.tick(after=16 * MINUTE)
    again = world.command(lease, "release")
    assert again.generation == first.generation + 1
    world.host.say(m.MachineGone(lease_id=lease.pk), at=world.now, command=again)
    lease.refresh_from_db()
    assert (lease.state, lease.outcome) == ("ended", "completed")
    assert run_checks(world.now) == []


def test_a_release_that_the_host_failed_at_is_ordered_again() -> None:
    world = World(gpus=1)
    lease, gpu, first = release(world)
    failed = m.GpuFailed(gpu_id=gpu.pk, tenure=1, step="stop", reason="will not stop")
    world.host.say(failed, at=world.now, command=first)
    world.tick(after=16 * MINUTE)
    assert world.command(lease, "release") != first


def test_a_refused_intake_is_not_ordered_again_at_once() -> None:
    world = World(gpus=1)
    Gpu.objects.update(state="dirty")
    world.tick()
    order = OutboxMessage.objects.filter(kind="intake").latest("generation")
    world.host.say(m.Refused(reason="not now"), at=world.now, command=order)
    for _ in range(5):
        world.tick(after=MINUTE)
    assert OutboxMessage.objects.filter(kind="intake").latest("generation") == order
    world.tick(after=30 * MINUTE)
    assert OutboxMessage.objects.filter(kind="intake").latest("generation") != order


def test_a_scrub_without_a_verdict_is_followed_by_an_intake() -> None:
    world = World(gpus=1)
    lease, gpu, order = release(world)
    world.host.say(m.MachineGone(lease_id=lease.pk), at=world.now, command=order)
    world.host.say(m.ScrubStarted(gpu_id=gpu.pk, tenure=1), at=world.now, command=order)
    intakes = OutboxMessage.objects.filter(kind="intake", answered_at=None)
    assert not intakes.exists()
    world.tick(after=timedelta(hours=3))
    assert intakes.exists()
    world.scrub(world.host, gpu)
    gpu.refresh_from_db()
    assert gpu.state == "clean"


def test_a_scrub_that_begins_anew_has_all_its_time_again() -> None:
    world = World(gpus=1)
    lease, gpu, order = release(world)
    world.host.say(m.MachineGone(lease_id=lease.pk), at=world.now, command=order)
    begun = m.ScrubStarted(gpu_id=gpu.pk, tenure=1)
    assert world.host.say(begun, at=world.now, command=order) == "applied"
    world.tick(after=100 * MINUTE)
    assert world.host.say(begun, at=world.now, command=order) == "applied"
    world.tick(after=100 * MINUTE)
    gpu.refresh_from_db()
    assert gpu.state == "scrubbing"
    world.tick(after=30 * MINUTE)
    gpu.refresh_from_db()
    assert gpu.state == "dirty"


def test_a_gpu_that_a_machine_may_have_is_not_taken_in() -> None:
    world = World(gpus=1)
    _, gpu, order = release(world)
    world.host.say(m.GpuFailed(gpu_id=gpu.pk, tenure=1, step="stop", reason="x"), at=world.now, command=order)
    readmit_gpu(actor=world.actor(world.operator), gpu_id=gpu.pk, now=world.now)
    world.tick(after=MINUTE)
    assert not OutboxMessage.objects.filter(kind="intake", answered_at=None).exists()


def test_an_earlier_sending_that_came_too_late_does_not_fail_the_lease() -> None:
    world = World(gpus=1)
    lease = book(world)
    world.tick()
    world.tick(after=MINUTE)
    order = world.command(lease, "provision")
    assert order.attempts == 2
    world.host.say(m.Refused(reason="expired"), at=world.now, command=order)
    world.host.say(m.Accepted(), at=world.now, command=order)
    world.host.say(m.Refused(reason="expired"), at=world.now, command=order)
    lease.refresh_from_db()
    assert lease.state == "provisioning"


def test_a_report_that_cannot_be_read_does_not_hold_up_those_behind_it() -> None:
    world = World(gpus=1)
    lease = book(world)
    world.tick()
    signer = Signer(world.host.key, REPORT)
    header = {"host": "hv1", "journal_id": world.host.journal_id, "sequence": world.host.sequence + 1}
    world.host.sequence += 1
    assert receive_report(signer.sign(msgspec.json.encode({**header, "protocol": 99})), now=world.now)
    before = refusals()
    bring_up(world, lease)
    assert lease.state == "active"
    unread = ReceivedReport.objects.get(sequence=world.host.sequence - 2)
    assert unread.verdict.startswith("refused")
    assert before == refusals() == 1
    assert run_checks(world.now) == []


def test_a_report_that_cannot_be_stored_does_not_hold_up_those_behind_it() -> None:
    world = World(gpus=1)
    lease = book(world)
    gpu = bring_up(world, lease)
    with transaction.atomic():
        world.host.say(
            m.GpuFailed(gpu_id=gpu.pk, tenure=1, step="watch", reason="a\x00b" * 600), at=world.now
        )
    world.host.say(m.MachineStopped(lease_id=lease.pk, cause="guest"), at=world.now)
    assert not ReceivedReport.objects.filter(applied_at=None).exists()


def test_a_command_is_no_report() -> None:
    world = World(gpus=1)
    envelope = world.host.envelope(m.Accepted(), at=world.now)
    forged = Signer(world.host.key, COMMAND).sign(b"{}")
    assert receive_report(forged, now=world.now) is None
    assert refusals() == 1
    assert receive_report(envelope, now=world.now) is not None


def test_refusals_of_strangers_are_told_within_measure() -> None:
    world = World(gpus=0)
    for _ in range(100):
        refuse_report("nonsense", now=world.now)
    assert refusals() == 30
    refuse_report("nonsense", now=world.now + 2 * MINUTE)
    assert refusals() == 31


def test_a_late_running_after_the_release_was_ordered_changes_nothing() -> None:
    world = World(gpus=1)
    lease = book(world)
    world.tick()
    provision = world.command(lease, "provision")
    world.tick(after=16 * MINUTE)
    lease.refresh_from_db()
    assert lease.state == "releasing"
    verdict = world.host.say(m.MachineRunning(lease_id=lease.pk), at=world.now, command=provision)
    assert verdict.startswith("stale")
    assert not lease.segments.exists()
    assert run_checks(world.now) == []


def test_a_machine_that_its_host_has_lost_fails_its_lease() -> None:
    world = World(gpus=1)
    lease = book(world)
    gpu = bring_up(world, lease)
    world.now += 10 * MINUTE
    world.host.say(inventory(gpu.address), at=world.now)
    lease.refresh_from_db()
    assert (lease.state, lease.outcome) == ("releasing", "failed")
    assert lease.segments.get().ends_at == world.now


def test_a_lease_that_was_never_ready_has_not_completed() -> None:
    world = World(gpus=1)
    lease = book(world, hours=1)
    world.tick()
    OutboxMessage.objects.filter(lease=lease).update(deadline_at=None)
    world.tick(after=timedelta(hours=1))
    lease.refresh_from_db()
    assert (lease.state, lease.outcome) == ("releasing", "failed")


def test_a_power_command_without_an_answer_is_given_up_and_the_lease_goes_on() -> None:
    world = World(gpus=1)
    lease = book(world)
    bring_up(world, lease)
    switch_power(actor=world.actor(world.ada), lease_id=lease.pk, action="off", now=world.now)
    world.tick(after=6 * MINUTE)
    lease.refresh_from_db()
    assert lease.state == "active"
    assert not OutboxMessage.objects.filter(lease=lease, answered_at=None).exists()


def test_reasons_and_notices_are_in_the_language_of_who_reads_them() -> None:
    world = World(gpus=1)
    world.ada.language = "zh-hans"
    world.ada.save()
    lease = book(world)
    world.tick()
    world.tick(after=16 * MINUTE)
    lease.refresh_from_db()
    assert str(lease.outcome_reason) == "hv1 did not answer in time."
    notice = Notification.objects.get(lease=lease, kind="lease-fail")
    assert "hv1 未及时应答。" in notice.body


def test_what_came_too_early_is_applied_with_what_it_waited_for() -> None:
    world = World(gpus=1)
    host, event = world.host, m.MachineGone(lease_id=world.gpus[0].pk)
    envelopes = [host.envelope(event, at=world.now) for _ in range(4)]
    host.row.refresh_from_db()
    before = host.row.applied_sequence
    for envelope in (*envelopes[1:], envelopes[0]):
        host.row.refresh_from_db()
        assert host.row.applied_sequence == before
        receive_report(envelope, now=world.now)
    host.row.refresh_from_db()
    assert host.row.applied_sequence == before + 4
