"""A real Debian disk image, brought in by an operator, is leased, used by SSH, and its GPU cleaned."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page

from lab.workstation.build import prepare_workstation
from tests.demo.running import RunningDemo, eventually, manage, prove, sign_in
from tools.servers import free_port

OPERATOR, MEMBER = ("", "operator"), ("studio", "member")
USER = "designer"
BOOT_SECONDS = 900


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_uploaded_debian_is_leased_signed_in_to_by_ssh_and_cleaned_up(var: Path, page: Page) -> None:
    with RunningDemo(var, free_port()) as demo:
        offer_debian(demo, var)
        sign_in(page, demo, MEMBER)
        add_key(page, demo, make_key(var / "id"))
        lease_id = book(page, demo)

        def lease() -> dict[str, object]:
            found: dict[str, object] = demo.call(f"/api/v1/leases/{lease_id}/", MEMBER)
            return found

        eventually(lambda: lease()["machine"] == "running", "the machine runs", seconds=300)
        page.goto(f"{demo.url}/workstations/{lease_id}/")
        command = page.get_by_text(re.compile(rf"^ssh -p \d+ {USER}@")).inner_text()
        ssh = [*command.split(), *options(var)]
        eventually(lambda: said(ssh, "true") is not None, "its owner signs in", seconds=BOOT_SECONDS)
        access = lease()["access"]
        assert isinstance(access, dict)
        assert shown_key(var) == access["host_key"]
        eventually(
            lambda: said(ssh, "test -e /var/lib/cloud/instance/boot-finished") is not None,
            "cloud-init is done",
            seconds=BOOT_SECONDS,
        )
        told = json.loads(said(ssh, "cat /run/cloud-init/result.json") or "")
        assert told["v1"]["errors"] == []
        assert said(ssh, "hostname") == lease()["machine_name"]
        assert said(ssh, "sudo id -un") == "root"
        eventually(
            lambda: "bookworm" in demo.call(f"/api/v1/leases/{lease_id}/", MEMBER)["guest"]["system"],
            "its page can say what runs in it",
            seconds=60,
        )
        demo.call(f"/api/v1/leases/{lease_id}/end/", MEMBER, {})
        eventually(lambda: lease()["machine"] == "gone", "the lease ends", seconds=120)
        assert said(ssh, "true") is None
        eventually(
            lambda: {gpu["state"] for gpu in demo.call("/api/v1/gpus/", OPERATOR)["results"]} == {"clean"},
            "every GPU is clean again",
            seconds=60,
        )
    prove(var)


def offer_debian(demo: RunningDemo, var: Path) -> None:
    """Taken in as an operator does with a file on the server, converted there, and copied to the host."""
    roomier = "from hosts.models import Gpu; Gpu.objects.update(share_memory_mib=1024, share_disk_gib=4)"
    assert manage(var, "shell", "-c", roomier).returncode == 0
    taken = manage(var, "import_image", str(prepare_workstation()), "--format", "qcow2")
    assert taken.returncode == 0, taken.stderr

    def upload() -> dict[str, object]:
        (found,) = demo.call("/api/v1/image-uploads/", OPERATOR)["results"]
        return dict(found)

    eventually(lambda: upload()["state"] == "ready", "it is converted", seconds=300)
    version = {
        "slug": "debian",
        "upload": upload()["id"],
        "name": "Debian 12",
        "os_family": "linux",
        "firmware": "uefi",
        "cloud_init": True,
        "default_user": USER,
        "ports": [22],
    }
    demo.call("/api/v1/image-versions/", OPERATOR, version)

    def copies() -> set[str]:
        return {copy["state"] for copy in demo.call("/api/v1/image-copies/", OPERATOR)["results"]}

    eventually(lambda: copies() == {"held"}, "its host has it", seconds=300)


def make_key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


def add_key(page: Page, demo: RunningDemo, key: str) -> None:
    page.goto(f"{demo.url}/account/")
    page.get_by_label("Public key").fill(key)
    page.locator("#ssh-keys").get_by_role("button", name="Add the key").click()
    page.locator("#ssh-keys tbody tr").wait_for()


def book(page: Page, demo: RunningDemo) -> str:
    page.goto(demo.url)
    page.get_by_role("link", name="Book").first.click()
    page.get_by_role("radio", name="Studio A6000").check()
    page.get_by_label("With", exact=True).select_option("debian")
    page.get_by_role("radio", name="2 hours").check()
    page.get_by_role("button", name="Book it").click()
    page.wait_for_url(re.compile(r"/workstations/[0-9a-f-]{36}/$"))
    return page.url.rstrip("/").rsplit("/", 1)[-1]


def options(var: Path) -> list[str]:
    """For OpenSSH's client: it asks nobody, and notes the key that it is shown."""
    chosen = {
        "UserKnownHostsFile": var / "known_hosts",
        "StrictHostKeyChecking": "accept-new",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": "20",
    }
    words = [word for option, value in chosen.items() for word in ("-o", f"{option}={value}")]
    return ["-F", "none", "-i", str(var / "id"), *words]


def shown_key(var: Path) -> str:
    """The fingerprint of the key that it was shown."""
    told = subprocess.run(
        ["ssh-keygen", "-lf", str(var / "known_hosts")], capture_output=True, text=True, check=True
    )
    return told.stdout.split()[1]


def said(ssh: list[str], line: str) -> str | None:
    """What a command in it printed; None if it could not be run."""
    done = subprocess.run([*ssh, line], capture_output=True, text=True, check=False, timeout=BOOT_SECONDS)
    return done.stdout.strip() if done.returncode == 0 else None
