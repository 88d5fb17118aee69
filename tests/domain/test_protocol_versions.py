"""The portal among hosts of two protocol versions, and one that is ahead of it."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from hosts.models import Host, HostCheckUp
from hosts.protocol import messages as m
from hosts.protocol.checkup import Check, CheckUp
from hosts.protocol.codec import PROTOCOL
from hosts.protocol.signing import REPORT, Signer, parse_envelope
from leasing.fsck import run_checks
from leasing.models import AuditEntry
from leasing.reports import receive_report
from tests.domain.test_first_lease import book, bring_up
from tests.world import World, inventory

pytestmark = pytest.mark.django_db
CHECK_UP = CheckUp(
    simulated=True, checks=(Check(code="iommu", outcome="off", verdict="fail", facts={"vendor": "Intel"}),)
)


def started(world: World, protocol: int) -> None:
    """The host's worker is started anew, and is of that version."""
    world.host.protocol = protocol
    seen = inventory(*(gpu.address for gpu in world.gpus), machines=world.host.machines())
    world.host.say(msgspec.structs.replace(seen, restarted=True), at=world.now)


def spoken(world: World) -> set[int]:
    """The versions of what the host is sent now."""
    world.sent.clear()
    world.tick(after=timedelta(seconds=1))
    return {json.loads(b64decode(parse_envelope(envelope).body))["protocol"] for _, envelope in world.sent}


def row(world: World) -> Host:
    return Host.objects.get(pk=world.host.row.pk)


def test_a_host_is_spoken_to_in_its_own_version() -> None:
    world = World(gpus=1)
    assert spoken(world) == {PROTOCOL}
    started(world, 1)
    assert spoken(world) == {1}
    started(world, PROTOCOL)
    assert spoken(world) == {PROTOCOL}


def test_a_command_names_the_journal_that_it_is_for() -> None:
    """Sent again after the host has lost it, it is for the new one."""
    world = World(gpus=1)
    book(world)
    world.tick()
    for _ in range(2):
        world.tick(after=timedelta(minutes=3))
        sent = [json.loads(b64decode(parse_envelope(envelope).body)) for _, envelope in world.sent]
        journals = [each["journal_id"] for each in sent if each["goal"]["type"] == "provision"]
        assert journals[-1] == str(world.host.journal_id)
        world.host.journal_id, world.host.sequence = uuid4(), 0
        world.host.say(inventory(*(gpu.address for gpu in world.gpus)), at=world.now)


def test_a_whole_lease_on_a_host_of_the_previous_version() -> None:
    world = World(gpus=1)
    started(world, 1)
    lease = book(world, hours=1)
    gpu = bring_up(world, lease)
    world.tick(after=timedelta(hours=1))
    order = world.command(lease, "release")
    assert order.attempts == 1
    world.host.say(m.MachineGone(lease_id=lease.pk), at=world.now, command=order)
    world.scrub(world.host, gpu, lease=lease)
    gpu.refresh_from_db()
    assert gpu.state == "clean"
    assert run_checks(world.now) == []


def test_a_system_that_an_older_host_has_no_words_for_waits_for_its_upgrade() -> None:
    world = World(gpus=1)
    world.image.cloud_init, world.image.default_user = True, "designer"
    world.image.save()
    started(world, 1)
    lease = book(world, hours=1)
    world.tick(after=timedelta(minutes=1))
    lease.refresh_from_db()
    assert (lease.state, lease.waiting_because.code) == ("scheduled", "waits-for-upgrade")
    started(world, PROTOCOL)
    world.tick(after=timedelta(minutes=1))
    lease.refresh_from_db()
    assert lease.state == "provisioning"


def test_a_worker_that_does_not_know_yet_whether_it_may_shows_that_it_can() -> None:
    """It speaks the older version until it has heard the newer one, but what only that can say, it says."""
    world = World(gpus=1)
    started(world, 1)
    world.host.protocol = PROTOCOL
    world.host.say(CHECK_UP, at=world.now)
    assert spoken(world) == {PROTOCOL}
    world.host.protocol = 1
    world.host.say(m.Refused(reason="of before"), at=world.now)
    assert spoken(world) == {PROTOCOL}


def test_the_latest_check_up_is_kept() -> None:
    world = World(gpus=1)
    for _ in range(2):
        assert world.host.say(CHECK_UP, at=world.now) == "applied"
        world.now += timedelta(hours=1)
    kept = HostCheckUp.objects.get(host=world.host.row)
    assert kept.checks[0]["facts"] == {"vendor": "Intel"}
    assert kept.taken_at == world.now - timedelta(hours=1)


def from_the_future(world: World, **changes: Any) -> str:
    """A report that only a later version has the words for."""
    world.host.protocol = PROTOCOL
    envelope = world.host.envelope(m.Accepted(), at=world.now)
    body = json.loads(b64decode(parse_envelope(envelope).body)) | changes
    return Signer(world.host.key, REPORT).sign(json.dumps(body).encode())


@pytest.mark.parametrize(
    "changes", [{"protocol": PROTOCOL + 1}, {"event": {"type": "levitated", "height": 3}}]
)
def test_what_is_not_understood_is_kept_and_holds_nothing_up(changes: dict[str, Any]) -> None:
    world = World(gpus=1)
    stored = receive_report(from_the_future(world, **changes), now=world.now)
    assert stored is not None
    stored.refresh_from_db()
    assert stored.verdict.startswith("refused")
    assert row(world).protocol == PROTOCOL
    assert AuditEntry.objects.filter(action="report.refuse").count() == 1
    assert world.host.say(CHECK_UP, at=world.now) == "applied"
    assert run_checks(world.now) == []
