"""The main job from request to proof, with a host that says what a real one says."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from hosts.models import Gpu
from hosts.protocol import messages as m
from leasing.approval import approve_lease, reject_lease
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.errors import NotAllowed, NothingFree
from leasing.fsck import run_checks
from leasing.models import AuditEntry, Lease, Notification, ScrubRecord
from leasing.usage import lease_cost
from tests.world import World

pytestmark = pytest.mark.django_db


def book(world: World, *, hours: int = 4, start: timedelta | None = None) -> Lease:
    starts_at = world.now + start if start else None
    return request_lease(
        actor=world.actor(world.ada),
        tenant=world.studio,
        flavor=world.flavor,
        image=world.image,
        starts_at=starts_at,
        ends_at=(starts_at or world.now) + timedelta(hours=hours),
        now=world.now,
    )


def bring_up(world: World, lease: Lease) -> Gpu:
    world.tick()
    command = world.command(lease, "provision")
    world.host.say(m.Accepted(), at=world.now, command=command)
    world.host.say(m.MachineRunning(lease_id=lease.pk), at=world.now, command=command)
    lease.refresh_from_db()
    return lease.holds.get().gpu


def check_everything(world: World) -> None:
    assert run_checks(world.now) == []


def test_a_lease_runs_is_billed_to_the_second_and_leaves_a_clean_gpu() -> None:
    world = World()
    lease = book(world)
    assert lease.state == "scheduled"
    gpu = bring_up(world, lease)
    assert (lease.state, gpu.state, gpu.tenure) == ("active", "leased", 1)

    world.now += timedelta(hours=1, seconds=30)
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    world.tick()
    release = world.command(lease, "release")
    world.now += timedelta(seconds=20)
    world.host.say(m.MachineGone(lease_id=lease.pk), at=world.now, command=release)
    lease.refresh_from_db()
    assert (lease.state, lease.outcome) == ("ended", "completed")

    world.scrub(world.host, gpu, lease=lease)
    gpu.refresh_from_db()
    assert gpu.state == "clean"
    assert ScrubRecord.objects.get(lease=lease).passed
    assert lease_cost(lease, now=world.now) == Decimal("3.83")  # 3630 s at 3.80 an hour
    world.tick()
    check_everything(world)


def test_outside_its_limits_a_team_asks_an_approver_who_is_not_the_requester() -> None:
    world = World(concurrent_gpus=0)
    lease = book(world)
    assert lease.state == "requested"
    assert "same time: 1." in str(lease.needs_approval_because)
    assert Notification.objects.filter(recipient=world.approver, lease=lease).exists()
    with pytest.raises(NotAllowed):
        approve_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    approve_lease(actor=world.actor(world.approver), lease_id=lease.pk, now=world.now)
    bring_up(world, lease)
    assert lease.state == "active"
    check_everything(world)


def test_a_rejected_request_gives_its_gpus_back() -> None:
    world = World(gpus=1, concurrent_gpus=0)
    lease = book(world)
    with pytest.raises(NothingFree):
        book(world)
    reject_lease(actor=world.actor(world.approver), lease_id=lease.pk, note="Not this week.", now=world.now)
    assert book(world).state == "requested"
    check_everything(world)


def test_a_request_that_nobody_decides_on_expires() -> None:
    world = World(concurrent_gpus=0)
    lease = book(world, start=timedelta(hours=2))
    world.tick(after=timedelta(hours=2))
    lease.refresh_from_db()
    assert (lease.state, lease.outcome) == ("ended", "expired")
    assert not lease.holds.exists()
    check_everything(world)


def test_a_failed_scrub_quarantines_and_the_next_lease_moves_to_an_equal_gpu() -> None:
    world = World(gpus=2)
    first = book(world, hours=1)
    gpu = bring_up(world, first)
    later = book(world, hours=1, start=timedelta(hours=3))
    later.holds.update(gpu=gpu)

    world.tick(after=timedelta(hours=1))
    release = world.command(first, "release")
    world.host.say(m.MachineGone(lease_id=first.pk), at=world.now, command=release)
    world.scrub(world.host, gpu, lease=first, canaries_found=3, mismatches=24)
    gpu.refresh_from_db()
    assert gpu.state == "quarantined"
    assert not ScrubRecord.objects.get(lease=first).passed

    world.now += timedelta(hours=2)
    world.host.inventory(*(g.address for g in world.gpus), at=world.now)
    world.tick()
    later.refresh_from_db()
    assert later.state == "provisioning"
    assert later.holds.get().gpu != gpu
    assert Notification.objects.filter(recipient=world.ada, kind="lease-moved").exists()
    world.tick(after=timedelta(days=3))
    gpu.refresh_from_db()
    assert gpu.state == "quarantined"
    check_everything(world)


def test_without_an_equal_gpu_the_next_lease_waits_and_its_owner_is_told() -> None:
    world = World(gpus=1)
    first = book(world, hours=1)
    gpu = bring_up(world, first)
    later = book(world, hours=5, start=timedelta(hours=3))
    world.tick(after=timedelta(hours=1))
    world.host.say(m.MachineGone(lease_id=first.pk), at=world.now, command=world.command(first, "release"))
    world.scrub(world.host, gpu, lease=first, verdict="failed", reasons=("stuck",))
    world.tick(after=timedelta(hours=2))
    later.refresh_from_db()
    assert later.state == "scheduled"
    assert later.waiting_because
    assert Notification.objects.filter(recipient=world.ada, kind="lease-waits").count() == 1
    world.tick(after=timedelta(minutes=5))
    assert Notification.objects.filter(recipient=world.ada, kind="lease-waits").count() == 1
    check_everything(world)


def test_a_host_out_of_reach_at_the_end_keeps_the_lease_releasing_and_delays_the_next() -> None:
    world = World(gpus=1)
    first = book(world, hours=1)
    gpu = bring_up(world, first)
    later = book(world, hours=2, start=timedelta(hours=1, minutes=10))
    world.tick(after=timedelta(hours=1))
    first.refresh_from_db()
    assert first.state == "releasing"
    billed = lease_cost(first, now=world.now)
    assert billed == Decimal("3.80")

    world.tick(after=timedelta(minutes=20))
    first.refresh_from_db()
    later.refresh_from_db()
    assert first.state == "releasing"
    assert later.state == "scheduled"
    assert later.holds.get().starts_at > world.now
    assert Notification.objects.filter(kind="lease-delayed", recipient=world.ada).exists()
    assert Notification.objects.filter(kind="host-silent", recipient=world.operator).exists()

    world.now += timedelta(minutes=5)
    stopped = world.now - timedelta(minutes=22)
    release = world.command(first, "release")
    world.host.say(m.MachineGone(lease_id=first.pk), at=stopped, now=world.now, command=release)
    world.scrub(world.host, gpu, lease=first)
    first.refresh_from_db()
    assert first.state == "ended"
    overrun = first.segments.get(cause="overrun")
    assert overrun.rate_per_hour == 0
    assert lease_cost(first, now=world.now) == billed
    world.tick(after=timedelta(minutes=30))
    world.host.inventory(gpu.address, at=world.now)
    world.tick()
    later.refresh_from_db()
    assert later.state == "provisioning"
    assert later.ends_at == later.starts_at + timedelta(hours=2)
    check_everything(world)


def test_a_provisioning_that_fails_is_released_and_free() -> None:
    world = World()
    lease = book(world)
    world.tick()
    command = world.command(lease, "provision")
    world.host.say(m.Accepted(), at=world.now, command=command)
    world.host.say(
        m.ProvisionFailed(lease_id=lease.pk, step="start", reason="no memory"), at=world.now, command=command
    )
    lease.refresh_from_db()
    assert (lease.state, lease.outcome) == ("releasing", "failed")
    assert "no memory" in str(lease.outcome_reason)
    release = world.command(lease, "release")
    world.host.say(m.MachineGone(lease_id=lease.pk), at=world.now, command=release)
    lease.refresh_from_db()
    assert (lease.state, lease.outcome) == ("ended", "failed")
    assert lease_cost(lease, now=world.now) == 0
    check_everything(world)


def test_a_command_without_an_answer_fails_its_lease_at_the_deadline() -> None:
    world = World()
    lease = book(world)
    world.tick()
    world.tick(after=timedelta(minutes=16))
    lease.refresh_from_db()
    assert (lease.state, lease.outcome) == ("releasing", "failed")
    check_everything(world)


def test_reports_change_nothing_when_repeated_forged_or_about_anothers_gpu() -> None:
    world = World()
    other = world.enrol("hv2")
    gpu = world.gpus[0]
    refused = AuditEntry.objects.filter(action="report.refuse")

    assert other.say(m.ScrubStarted(gpu_id=gpu.pk, tenure=0), at=world.now).startswith("refused")
    assert refused.count() == 1
    other.row.account = world.host.row.account
    assert other.say(m.ScrubStarted(gpu_id=gpu.pk, tenure=0), at=world.now) == ""
    assert refused.count() == 2
    lease = book(world)
    bring_up(world, lease)
    envelope = world.host.envelope(m.MachineStopped(lease_id=lease.pk, cause="guest"), at=world.now)
    from leasing.reports import receive_report

    assert receive_report(envelope, now=world.now) is not None
    entries = AuditEntry.objects.count()
    assert receive_report(envelope, now=world.now) is None
    assert receive_report(envelope.replace("a", "b"), now=world.now) is None
    assert AuditEntry.objects.count() == entries + 1
    check_everything(world)
