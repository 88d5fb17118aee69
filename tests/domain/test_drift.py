"""What a host found not to be as it should: into its history once, and it changes no state."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hosts.models import Gpu, HostCheckUp
from hosts.protocol.checkup import Check, CheckUp
from leasing.audit.verifier import verify_log
from leasing.fsck import run_checks
from leasing.models import AuditEntry
from portal.pages.history import details
from tests.world import World

pytestmark = pytest.mark.django_db

STRAY = Check(
    code="stray-machine",
    outcome="removed",
    verdict="warn",
    facts={"machine": "orphan", "lease": "1"},
)
HANG = Check(code="hang", outcome="hangs", verdict="fail", subject="0000:01:00.0")
ORDINARY = Check(code="iommu", outcome="on", verdict="pass", facts={"kind": "AMD-Vi"})


def tell(world: World, *checks: Check) -> str:
    world.now += timedelta(minutes=1)
    return world.host.say(CheckUp(simulated=True, checks=checks), at=world.now)


def drift(world: World) -> list[str]:
    entries = AuditEntry.objects.filter(subject=f"host:{world.host.row.pk}", action="host.drift")
    return [details(entry)["detail"]["reason"] for entry in entries.order_by("id")]


def test_each_difference_is_recorded_once_for_as_long_as_it_stands() -> None:
    world = World()
    for _ in range(2):
        assert tell(world, HANG, STRAY, ORDINARY) == "applied"
    tell(world, HANG, ORDINARY)
    assert drift(world) == [
        "0000:01:00.0 The kernel hangs: The kernel has not come back from an access to it.",
        "Machine without a lease: orphan was for lease 1, which is not here. It was removed.",
    ]
    tell(world, HANG, STRAY, ORDINARY)
    assert len(drift(world)) == 3
    assert HostCheckUp.objects.get(host=world.host.row).failed == 1


def test_it_changes_no_state() -> None:
    world = World()
    before = list(Gpu.objects.values_list("pk", "state", "state_since"))
    tell(world, HANG, STRAY)
    assert list(Gpu.objects.values_list("pk", "state", "state_since")) == before
    assert verify_log().problems == []
    assert run_checks(world.now) == []
