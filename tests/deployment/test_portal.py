"""The role for the portal makes a portal out of a plain Debian: confined, encrypted, backed up, restored."""

from __future__ import annotations

import hashlib
import json

import pytest

from hosts.protocol.broker import broker_acl, host_keys
from tests.deployment.conftest import NAME, Server
from tools.booted import Booted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # whoever comes first makes the Debian
SERVICES = ["leasehold-web", "leasehold-console", "leasehold-control", "leasehold-reports"]
BROKER = ("redis-cli", "--tls", "--cacert", "/etc/leasehold/tls/portal.pem", "-h", NAME, "-p", "6380")
FETCH = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())"
NAMES = (
    "from leasing.models import EnrolmentToken as T; "
    "print(*T.objects.order_by('created_at').values_list('name', flat=True))"
)


def test_applied_again_it_changes_nothing(portal: Server) -> None:
    in_folder, first, second = portal.applied
    assert in_folder.changed > 20
    assert first.changed > 0
    assert second.changed == 0, second.output


def test_it_answers_over_tls_and_finds_everything_in_order(portal: Server) -> None:
    told = json.loads(portal.machine.run("python3", "-c", FETCH, f"https://{NAME}/readyz"))
    assert told["ready"]
    assert portal.machine.run("systemctl", "is-active", *SERVICES).split() == ["active"] * 4
    assert portal.machine.run("systemctl", "--failed", "--no-legend").strip() == ""


def test_servers_take_the_files_without_a_complaint(portal: Server) -> None:
    portal.machine.run("nginx", "-t", "-q")
    names = (*SERVICES, "leasehold-verify", "leasehold-backup")
    units = [f"/etc/systemd/system/{name}.service" for name in names]
    done = portal.machine.attempt("systemd-analyze", "verify", "--recursive-errors=no", *units)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_confined(portal: Server, service: str) -> None:
    """systemd's own measure, in tenths: 0 is closed, a unit that says nothing has 96."""
    portal.machine.run("systemd-analyze", "security", "--no-pager", "--threshold=25", service)
    assert portal.machine.run("systemctl", "show", "--value", "-p", "User", service).strip() == "leasehold"


def test_nothing_but_the_proxy_and_the_broker_is_reached_from_outside(portal: Server) -> None:
    lines = portal.machine.run("ss", "-Hltn").splitlines()
    addresses = [line.split()[3].rpartition(":") for line in lines]
    outside = {int(port) for host, _, port in addresses if host not in {"127.0.0.1", "[::1]"}}
    assert outside == {80, 443, 6380}


class TestBroker:
    """The real Redis with the files of the role."""

    def ask(self, machine: Booted, who: str, password: str, *words: str) -> str:
        done = machine.attempt(*BROKER, "--user", who, "--no-auth-warning", *words, REDISCLI_AUTH=password)
        return (done.stdout + done.stderr).strip()

    def secret(self, portal: Server, name: str) -> str:
        return portal.machine.run("cat", f"/etc/leasehold/secrets/{name}").strip()

    def test_nobody_comes_in_without_tls_or_an_account(self, portal: Server) -> None:
        assert "PONG" not in self.ask(portal.machine, "default", "", "PING")
        assert "PONG" not in portal.machine.attempt("redis-cli", "-h", NAME, "-p", "6380", "PING").stdout

    def test_the_portals_account_works_and_does_not_administer(self, portal: Server) -> None:
        password = self.secret(portal, "broker-portal")
        assert self.ask(portal.machine, "portal", password, "PING") == "PONG"
        for words in (["ACL", "LIST"], ["CONFIG", "GET", "*"], ["FLUSHALL"], ["KEYS", "*"]):
            assert "NOPERM" in self.ask(portal.machine, "portal", password, *words)

    def test_the_account_that_makes_accounts_reads_no_queue(self, portal: Server) -> None:
        password = self.secret(portal, "broker-accounts")
        for words in (["LRANGE", "reports", "0", "-1"], ["RPUSH", "host.hv1", "x"], ["CONFIG", "GET", "*"]):
            assert "NOPERM" in self.ask(portal.machine, "accounts", password, *words)

    def test_a_hosts_account_survives_a_restart_and_reaches_its_own_queue_alone(self, portal: Server) -> None:
        accounts = self.secret(portal, "broker-accounts")
        digest = hashlib.sha256(b"hosts-password").hexdigest()
        made = self.ask(portal.machine, "accounts", accounts, "ACL", "SETUSER", *broker_acl("hv1", digest))
        assert made == "OK"
        assert self.ask(portal.machine, "accounts", accounts, "ACL", "SAVE") == "OK"
        portal.machine.run("systemctl", "restart", "redis-server")
        host = ("host-hv1", "hosts-password")
        assert self.ask(portal.machine, *host, "LLEN", host_keys("hv1")[0]) == "0"
        assert self.ask(portal.machine, *host, "LLEN", "reports") == "0"
        for words in (
            ["LLEN", host_keys("hv2")[0]],
            ["RPOP", "reports"],
            ["LLEN", "control"],
            ["ACL", "LIST"],
        ):
            assert "NOPERM" in self.ask(portal.machine, *host, *words)


def test_a_backup_is_restored_on_top_of_what_came_later_and_proven(portal: Server) -> None:
    """What came after the backup is gone, and is kept aside; the log verifies up to the backup."""
    machine = portal.machine
    machine.run("leasehold", "enrolment_token", "before")
    wait_for_anchor(machine)
    image = keep_image(machine)
    folder = machine.run("leasehold-backup").strip()
    machine.run("rm", image)
    machine.run("leasehold", "enrolment_token", "after")
    wait_for_anchor(machine)
    machine.run("leasehold-restore", folder)
    assert names(machine) == ["before"]
    assert machine.run("stat", "--format=%U %a %s", image).split() == ["leasehold", "600", "5"]
    machine.run("leasehold", "audit", "verify")
    machine.run("leasehold", "fsck")
    kept = machine.run("runuser", "-u", "postgres", "--", "psql", "-Atl").splitlines()
    assert sum(line.startswith("leasehold_before_") for line in kept) == 1
    states = machine.run("systemctl", "show", "-p", "ActiveState", "--value", *SERVICES).split()
    assert states == ["inactive"] * 4
    machine.run("systemctl", "start", *SERVICES)
    machine.run("leasehold", "enrolment_token", "again")
    wait_for_anchor(machine)
    machine.run("leasehold", "audit", "verify")


def test_a_machine_that_has_made_another_key_gets_the_one_that_hosts_know(portal: Server) -> None:
    machine, key = portal.machine, "/var/lib/leasehold-portal/portal.key"
    folder = machine.run("leasehold-backup").strip()
    known = machine.run("sha256sum", key)
    machine.run("systemctl", "stop", *SERVICES)
    machine.run("sh", "-c", f"head -c 32 /dev/urandom >{key}")
    machine.run("leasehold-restore", folder)
    assert machine.run("sha256sum", key) == known
    machine.run("systemctl", "start", *SERVICES)


def test_an_uploaded_disk_is_converted_in_its_sandbox(portal: Server) -> None:
    """By the control worker, which is confined itself."""
    machine = portal.machine
    machine.run("truncate", "--size=4M", "/var/lib/leasehold-portal/disk.raw")
    machine.run("chown", "leasehold:", "/var/lib/leasehold-portal/disk.raw")
    words = (
        "import time\nfrom pathlib import Path\nfrom django.utils import timezone\n"
        "from leasing.actors import SYSTEM\nfrom leasing.imaging.uploads import import_file\n"
        "file = Path('/var/lib/leasehold-portal/disk.raw')\n"
        "it = import_file(actor=SYSTEM, path=file, format='raw', digest='', now=timezone.now())\n"
        "end = time.monotonic() + 60\n"
        "while it.state in ('waiting', 'converting'):\n"
        "    assert time.monotonic() < end, it.state\n"
        "    time.sleep(0.2)\n"
        "    it.refresh_from_db()\n"
        "print(it.state, it.reason)\n"
    )
    assert machine.run("leasehold", "shell", "--verbosity", "0", "-c", words).split()[0] == "ready"


def test_the_nightly_proof_and_backup_run_as_units(portal: Server) -> None:
    portal.machine.run("systemctl", "start", "leasehold-verify.service")
    portal.machine.run("systemctl", "start", "leasehold-backup.service")


def names(machine: Booted) -> list[str]:
    return machine.run("leasehold", "shell", "--verbosity", "0", "-c", NAMES).split()


def keep_image(machine: Booted) -> str:
    """A file in the store, as if it had been uploaded and converted; its path."""
    digest = hashlib.sha256(b"disk\n").hexdigest()
    folder = f"/var/lib/leasehold-portal/image-store/content/{digest[:2]}"
    words = f"install -d -o leasehold -g leasehold {folder} && echo disk >{folder}/{digest}.raw"
    machine.run("sh", "-c", words)
    return f"{folder}/{digest}.raw"


def wait_for_anchor(machine: Booted) -> None:
    """Until the control worker has sealed every entry and written its head down."""
    words = (
        "import time\nfrom leasing.models import TreeHead, UnsealedEntry\n"
        "end = time.monotonic() + 60\n"
        "while UnsealedEntry.objects.exists() or TreeHead.objects.filter(anchored_at=None).exists():\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.2)\n"
    )
    machine.run("leasehold", "shell", "--verbosity", "0", "-c", words)
