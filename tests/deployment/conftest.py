"""One server of each role for all tests of a run: Debian in a folder, the role applied, systemd started."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.hypervisor.base import apt_sources
from lab.hypervisor.image import CACHE
from tools import release
from tools.booted import Booted
from tools.roles import Applied, apply_role, packages

NAME = "portal.example"
VARIABLES = {"portal_name": NAME, "portal_web_processes": 1}
HOMES = "/srv/leasehold-homes"
HYPERVISOR_VARIABLES = {
    "hypervisor_settings": {
        # libvirtd as the role has it does not start without AppArmor, which this machine's kernel may lack.
        "libvirt_uri": "qemu:///embed?root=/var/lib/leasehold/libvirt",
        "bus": "simulated",
        "bus_directory": "/var/lib/leasehold/bus",
        "domain_type": "qemu",
        "home_pool": {"name": "studio", "directory": HOMES},
    },
}
# What makes a Debian that boots and that Ansible can look after.
BASE = ("dbus", "iproute2", "python3-apt", "systemd-sysv", "udev")


@dataclass(frozen=True)
class Server:
    """The machine, and how often the role was applied to it: in the folder, then while it ran."""

    machine: Booted
    applied: tuple[Applied, ...]


@pytest.fixture(scope="session")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with deployed("portal", "portal", tmp_path_factory.mktemp("portal"), VARIABLES) as machine:
        yield machine


@pytest.fixture(scope="session")
def hypervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Cards are simulated; what needs real ones, or a boot, is tried in tests/lab."""
    folder = tmp_path_factory.mktemp("hypervisor")
    with deployed("hypervisors", "host", folder, HYPERVISOR_VARIABLES) as machine:
        yield machine


@contextmanager
def deployed(group: str, purpose: str, folder: Path, variables: dict[str, Any]) -> Iterator[Server]:
    """The playbook of the group, on a Debian with what deploy/packages/`purpose`.txt lists."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    release.main()
    root = folder / "root"
    root.mkdir()
    subprocess.run(["tar", "--directory", root, "--extract", "--file", debian(purpose)], check=True)
    playbook = f"{group}.yml"
    in_folder = apply_role(playbook, root, group=group, variables=variables)
    with Booted(root) as machine:
        running = [machine.apply(playbook, group=group, variables=variables) for _ in range(2)]
        yield Server(machine, (in_folder, *running))
    shutil.rmtree(root)


def debian(purpose: str) -> Path:
    """An archive of a Debian with the packages of deploy/packages/`purpose`.txt, built once for the same."""
    names = [*BASE, *packages(purpose)]
    folder = CACHE.parent / "roles"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{purpose}-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]}.tar"
    if not archive.exists():
        partial = archive.with_suffix(".partial.tar")
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(names)}", "bookworm"]
        subprocess.run([*words, partial, *apt_sources()], check=True)
        partial.replace(archive)
    return archive
