"""Errors of GPUs as guests tell them: in the histories of lease and GPU, and changing nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hosts.protocol import messages as m
from leasing.audit.verifier import verify_log
from leasing.booking import request_lease
from leasing.cards import history_of
from leasing.fsck import run_checks
from leasing.models import AuditEntry, Lease
from tests.world import World

TEXT = "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."


@pytest.fixture
def world(db: None) -> World:
    return World(gpus=2)


def running(world: World) -> Lease:
    lease = request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=None, ends_at=world.now + timedelta(hours=8), now=world.now,
    )  # fmt: skip
    world.start(lease)
    return lease


def test_an_error_stands_in_the_lives_of_lease_and_gpu_and_changes_nothing(world: World) -> None:
    lease = running(world)
    gpu = lease.holds.get().gpu
    error = m.GuestError(code=79, text=TEXT, gpu_id=gpu.pk)
    assert world.host.say(m.GuestErrors(lease_id=lease.pk, errors=(error,)), at=world.now) == "applied"
    assert history_of(gpu)[0].action == "gpu.guest-error"
    subjects = AuditEntry.objects.filter(action="gpu.guest-error").values_list("subject", flat=True)
    assert set(subjects) == {f"lease:{lease.pk}", f"gpu:{gpu.pk}"}
    lease.refresh_from_db()
    gpu.refresh_from_db()
    assert (lease.state, gpu.state) == ("active", "leased")
    assert run_checks(world.now) == []
    assert verify_log().problems == []


def test_a_gpu_that_the_lease_does_not_have_is_not_spoken_of(world: World) -> None:
    lease = running(world)
    (other,) = (gpu for gpu in world.gpus if gpu.pk != lease.holds.get().gpu_id)
    error = m.GuestError(code=79, text=TEXT, gpu_id=other.pk)
    world.host.say(m.GuestErrors(lease_id=lease.pk, errors=(error,)), at=world.now)
    assert not history_of(other).filter(action="gpu.guest-error").exists()


def test_another_host_has_no_say(world: World) -> None:
    lease, other = running(world), world.enrol("hv2")
    error = m.GuestError(code=79, text=TEXT)
    assert other.say(m.GuestErrors(lease_id=lease.pk, errors=(error,)), at=world.now).startswith("refused")
    assert not AuditEntry.objects.filter(action="gpu.guest-error").exists()
