"""The role for hypervisors makes a host out of a plain Debian; after a restore it begins a new journal."""

from __future__ import annotations

import json
import time

import pytest

from tests.deployment.conftest import HOMES, Server
from tools.booted import Booted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # whoever comes first makes the Debian
SERVICE = "leasehold-host"
STATE = "/var/lib/leasehold"
START_SECONDS = 120.0
# As if it had been enrolled: with keys of its own, at a portal and a broker that it cannot reach.
ENROL = f"""
from pathlib import Path
from hosts.agent.config import Enrolment, write_enrolment
from hosts.agent.identity import new_identity, save_identity
from hosts.protocol.signing import public_hex
save_identity(Path("{STATE}/identity.json"), new_identity())
write_enrolment(Path("{STATE}/enrolment.json"), Enrolment(
    host="hv1", portal="https://portal.example", broker_url="rediss://host-hv1:x@127.0.0.1:6380/0",
    control_keys=(public_hex(new_identity().signing),)))
"""
READ_JOURNAL = (
    "import sqlite3, sys; journal = sqlite3.connect(sys.argv[1]); "
    "print(*journal.execute(\"SELECT value FROM meta WHERE key = 'journal_id'\").fetchone())"
)


@pytest.fixture(scope="module")
def host(hypervisor: Server) -> Booted:
    """Its worker runs."""
    machine = hypervisor.machine
    machine.run("install", "-d", "-m", "711", HOMES)
    machine.run("sh", "-c", f"echo studio >{HOMES}/leasehold-pool")
    machine.run("/opt/leasehold/bin/python", "-c", ENROL)
    machine.run("systemctl", "start", SERVICE)
    return machine


def test_applied_again_it_changes_nothing(hypervisor: Server) -> None:
    in_folder, first, second = hypervisor.applied
    assert in_folder.changed > 10
    assert second.changed == 0, (first.changes, second.changes)


def test_the_confined_worker_may_write_to_its_pool_of_home_volumes(host: Booted) -> None:
    journal_of(host)
    found = json.loads(host.attempt(f"/opt/leasehold/bin/{SERVICE}", "doctor", "--json").stdout)
    (pool,) = [check for check in found["checks"] if check["code"] == "home-pool"]
    assert (pool["verdict"], pool["outcome"]) == ("pass", "ok")


def test_after_a_restore_of_the_portal_each_host_begins_a_new_journal_and_keeps_the_old_one(
    host: Booted,
) -> None:
    old = journal_of(host)
    keys = host.run("sha256sum", f"{STATE}/identity.json", f"{STATE}/enrolment.json")
    applied = host.apply("after-restore.yml", group="hypervisors", variables={})
    assert applied.changed == 3
    assert journal_of(host) != old
    assert host.run("sha256sum", f"{STATE}/identity.json", f"{STATE}/enrolment.json") == keys
    (aside,) = host.run("sh", "-c", f"ls -d {STATE}/before-restore-*").split()
    assert host.run("stat", "--format=%U %a", aside).split() == ["root", "700"]
    assert host.run("python3", "-c", READ_JOURNAL, f"{aside}/journal.sqlite3").strip() == old


def journal_of(machine: Booted) -> str:
    """The name of the running worker's journal; waits until it answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        active = machine.attempt("systemctl", "is-active", SERVICE).stdout.strip()
        told = machine.attempt(f"/opt/leasehold/bin/{SERVICE}", "status", "--json")
        if active == "active" and told.returncode == 0:
            return str(json.loads(told.stdout)["journal_id"])
        log = machine.attempt("journalctl", "--no-pager", "--lines=30", "--unit", SERVICE)
        assert time.monotonic() < deadline, told.stdout + told.stderr + log.stdout
        time.sleep(0.5)
