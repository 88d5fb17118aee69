"""One portal for all tests of a run: a Debian in a folder, the role applied, its own systemd started."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.hypervisor.base import apt_sources
from lab.hypervisor.image import CACHE
from tools import release
from tools.booted import Booted
from tools.roles import Applied, apply_role, packages

NAME = "portal.example"
VARIABLES = {"portal_name": NAME, "portal_web_processes": 1}
# What makes a Debian that boots and that Ansible can look after.
BASE = ("dbus", "iproute2", "python3-apt", "systemd-sysv", "udev")


@dataclass(frozen=True)
class Portal:
    """The machine, and how often the role was applied to it: in the folder, then while it ran."""

    machine: Booted
    applied: tuple[Applied, ...]


@pytest.fixture(scope="session")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    release.main()
    root = tmp_path_factory.mktemp("debian") / "root"
    root.mkdir()
    subprocess.run(["tar", "--directory", root, "--extract", "--file", debian("portal")], check=True)
    in_folder = apply_role("portal.yml", root, group="portal", variables=VARIABLES)
    with Booted(root) as machine:
        running = [machine.apply("portal.yml", group="portal", variables=VARIABLES) for _ in range(2)]
        yield Portal(machine, (in_folder, *running))
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
