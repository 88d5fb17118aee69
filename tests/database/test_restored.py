"""Yesterday's dump is restored while a host ran on: nothing is started or called clean that is not so."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from hosts.models import Gpu
from leasing.audit.verifier import verify_log
from leasing.ending import end_lease
from leasing.fsck import run_checks
from leasing.models import OutboxMessage, TreeHead
from tests.agent.campaign.machine_room import no_real_waiting
from tests.domain.portal_story import PortalStory
from tools.servers import postgres_program

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]
HOUR = timedelta(hours=1)


class Story(PortalStory):
    """What libvirt says of a machine names its card, as of a real one."""

    def begin(self) -> None:
        machines, told = self.room.machines, self.room.machines.machines
        self.room.machines.machines = lambda: [  # type: ignore[method-assign]
            replace(facts, pci_addresses=machines.cards_of(facts)) for facts in told()
        ]
        super().begin()

    def begin_journal(self) -> None:
        """What deploy/after-restore.yml does."""
        self.room.lose_journal()

    def remove_stray(self, name: str) -> None:
        """As with virsh."""
        self.room.machines.destroy(name)
        self.room.machines.undefine(name)


def dump(into: Path) -> None:
    subprocess.run([postgres_program("pg_dump"), "-Fc", "-f", into, *database()], check=True)


def restore(dumped: Path) -> None:
    connection.close()
    words = ["--clean", "--if-exists", "--exit-on-error", *database(), str(dumped)]
    subprocess.run([postgres_program("pg_restore"), *words], check=True)


def database() -> list[str]:
    known = connection.get_connection_params()
    return ["-d", " ".join(f"{name}={known[name]}" for name in ("host", "user", "dbname"))]


def put_later_heads_aside() -> None:
    """As leasehold-restore does."""
    last = TreeHead.objects.exclude(anchored_at=None).latest("size").size
    file: Path = settings.AUDIT_ANCHOR_FILE
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if json.loads(line)["size"] <= last))


def test_hosts_are_asked_before_they_are_told(tmp_path: Path) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("dumps are PostgreSQL's")
    story = Story(0, tmp_path)
    with no_real_waiting(story.room):
        story.begin()
        ended, kept = story.book(length=2 * HOUR), story.book(length=12 * HOUR)
        story.until(lambda: story.are("active", ended, kept))
        coming = story.book(length=12 * HOUR, starts=HOUR, of_nvidia=True)
        dump(tmp_path / "dump")
        end_lease(actor=story._ada(), lease_id=ended.pk, now=story.clock.now)
        story.until(lambda: story.are("ended", ended) and len(story._unclean()) == 1)
        forgotten = story.book(length=12 * HOUR)
        story.until(lambda: story.are("active", kept, coming, forgotten))
        before = story.running()
        assert before == {lease.machine_name for lease in (kept, coming, forgotten)}

        restore(tmp_path / "dump")
        assert any("its end is missing" in problem for problem in verify_log().problems)
        put_later_heads_aside()
        assert verify_log().problems == []
        call_command("restored")
        story._round()
        assert not Gpu.objects.filter(state="clean").exists()
        assert not OutboxMessage.objects.filter(
            accepted_at__gte=story.clock.now - timedelta(minutes=3)
        ).exists()
        assert story.are("scheduled", coming)
        assert story.running() == before

        story.begin_journal()
        story.until(lambda: story.are("ended", ended))
        story._round()
        assert story.running() == before
        assert story.are("active", kept)
        used = {address for facts in story.room.machines.machines() for address in facts.pci_addresses}
        assert not Gpu.objects.filter(state="clean", address__in=used).exists()
        strays = {finding.problem.rpartition(" has ")[2] for finding in run_checks(story.clock.now)}
        assert strays == {coming.machine_name, f"{forgotten.machine_name}, and there is no such lease"}

        for stray in (coming, forgotten):
            story.remove_stray(stray.machine_name)
        story.begin_journal()
        story.until(lambda: story.are("active", kept, coming) and len(story._unclean()) == 2)
        assert story.room.disks() == {kept.pk, coming.pk}
        assert run_checks(story.clock.now) == []
        assert verify_log().problems == []
        assert kept.segments.get().ends_at is None
