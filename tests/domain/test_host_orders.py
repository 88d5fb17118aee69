"""What somebody on a host has ordered for a GPU: recorded, and the GPU is clean again by evidence alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import pytest

from hosts.models import Gpu
from hosts.protocol import messages as m
from leasing.audit.verifier import verify_log
from leasing.fsck import run_checks
from leasing.models import AuditEntry, OutboxMessage, ScrubRecord
from tests.domain.test_first_lease import book, bring_up
from tests.world import World, evidence

pytestmark = pytest.mark.django_db
RESET = m.ResetRecord(method="bridge-reset", scope="bus", seconds=1.0, attempts=1)


def ordered(world: World, action: Literal["scrub", "reset"], **changes: int) -> str:
    gpu = world.gpus[0]
    gpu.refresh_from_db()
    event = m.Ordered(gpu_id=gpu.pk, tenure=changes.get("tenure", gpu.tenure), action=action, by="oskar")
    return world.host.say(event, at=world.now)


def state(world: World) -> str:
    return Gpu.objects.get(pk=world.gpus[0].pk).state


def open_intakes() -> int:
    return OutboxMessage.objects.filter(kind="intake", answered_at=None).count()


def scrubbed(world: World, **changes: object) -> None:
    """The host reports the scrub that it was told to do on the spot."""
    gpu = world.gpus[0]
    world.host.say(m.ScrubStarted(gpu_id=gpu.pk, tenure=gpu.tenure), at=world.now)
    told = evidence(gpu.address, at=world.now, **changes)
    world.host.say(m.Scrubbed(gpu_id=gpu.pk, tenure=gpu.tenure, lease_id=None, evidence=told), at=world.now)


def is_sound(world: World) -> bool:
    world.tick()
    return run_checks(world.now) == [] and verify_log().problems == []


def test_a_scrub_is_clean_again_by_its_evidence() -> None:
    world = World(gpus=1)
    records = ScrubRecord.objects.count()
    assert ordered(world, "scrub") == "applied"
    assert state(world) == "dirty"
    world.tick(after=timedelta(minutes=1))
    assert open_intakes() == 0
    scrubbed(world)
    assert state(world) == "clean"
    assert ScrubRecord.objects.count() == records + 1
    entry = AuditEntry.objects.get(action="gpu.order")
    assert '"by":"oskar"' in entry.text
    assert is_sound(world)


def test_a_scrub_without_enough_evidence_quarantines() -> None:
    world = World(gpus=1)
    ordered(world, "scrub")
    scrubbed(world, canaries_found=3)
    assert state(world) == "quarantined"
    assert is_sound(world)


def test_a_scrub_of_which_nothing_is_heard_is_followed_by_an_intake() -> None:
    world = World(gpus=1)
    ordered(world, "scrub")
    world.tick(after=timedelta(hours=3))
    assert open_intakes() == 1


def test_after_a_reset_an_intake_is_ordered() -> None:
    world = World(gpus=1)
    gpu = world.gpus[0]
    ordered(world, "reset")
    reset = m.GpuReset(gpu_id=gpu.pk, tenure=gpu.tenure, record=RESET)
    assert world.host.say(reset, at=world.now) == "applied"
    assert state(world) == "dirty"
    world.tick()
    assert open_intakes() == 1
    assert '"reason":"bridge-reset (bus)"' in AuditEntry.objects.get(action="gpu.reset").text
    assert is_sound(world)


def test_a_leased_gpu_is_not_doubted_by_an_order_of_before() -> None:
    world = World(gpus=1)
    bring_up(world, book(world, hours=1))
    assert ordered(world, "scrub", tenure=0).startswith("stale")
    assert ordered(world, "reset").startswith("stale")
    assert state(world) == "leased"
    assert AuditEntry.objects.filter(action="gpu.order").count() == 2
    assert is_sound(world)


def test_a_quarantined_gpu_stays_so() -> None:
    world = World(gpus=1)
    ordered(world, "scrub")
    scrubbed(world, canaries_found=3)
    assert ordered(world, "reset").startswith("stale")
    scrubbed(world)
    assert state(world) == "quarantined"
    assert is_sound(world)


def test_a_host_orders_for_its_own_gpus_alone() -> None:
    world = World(gpus=1)
    stranger = world.enrol("hv2")
    event = m.Ordered(gpu_id=world.gpus[0].pk, tenure=0, action="scrub", by="mallory")
    assert stranger.say(event, at=world.now).startswith("refused")
    assert state(world) == "clean"
