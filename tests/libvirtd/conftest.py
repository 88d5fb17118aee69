"""The libvirt of a hypervisor, which keeps the keys of disks: a daemon of these tests' own. Needs root.

Its folders are those of any libvirtd: this process leaves the mounts of the machine and gets its own there.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from appliance.debian import DEFAULT_CACHE
from appliance.reader import build_reader
from hosts.agent.embedded import EMBEDDED_CONF
from hosts.agent.hypervisor import Hypervisor
from lab.tenant.build import build_tenant
from tests.quick_files import quick_directory
from tools.pace import slowness

FOLDERS = ("/etc/libvirt", "/run/libvirt", "/var/cache/libvirt", "/var/lib/libvirt", "/var/log/libvirt")
SOCKET = Path("/run/libvirt/libvirt-sock")
URI = "qemu:///system"
START_SECONDS = 10
_CLONE_NEWNS = 0x00020000


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory, and removed after the test."""
    with tempfile.TemporaryDirectory(prefix="lh-", dir=quick_directory()) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def daemon() -> Iterator[subprocess.Popen[bytes]]:
    """It listens."""
    _leave_the_mounts()
    Path("/etc/libvirt/qemu.conf").write_text(EMBEDDED_CONF)
    Path("/etc/libvirt/libvirtd.conf").write_text('auth_unix_rw = "none"\n')
    with Path("/var/log/libvirt/libvirtd.log").open("wb") as log:
        daemon = subprocess.Popen(["/usr/sbin/libvirtd"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS * slowness()
        while not SOCKET.is_socket():
            assert daemon.poll() is None, "libvirtd has ended"
            assert time.monotonic() < deadline, "libvirtd does not listen"
            time.sleep(0.05)
        yield daemon
    finally:
        daemon.terminate()
        daemon.wait()


@pytest.fixture(scope="session")
def hypervisor(daemon: subprocess.Popen[bytes]) -> Iterator[Hypervisor]:
    """A connection to it, as a host worker has one."""
    opened = Hypervisor.open(URI)
    yield opened
    for machine in opened.machines():
        opened.destroy(machine.name)
    opened.close()


@pytest.fixture(scope="session")
def secrets_kept(hypervisor: Hypervisor) -> Iterator[libvirt.virConnect]:
    """Another connection, to look at what libvirt keeps."""
    connection = libvirt.open(URI)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def tenant_image() -> Path:
    return build_tenant(DEFAULT_CACHE.parent / "tenant").parent


@pytest.fixture(scope="session")
def reader_system() -> Path:
    return build_reader(DEFAULT_CACHE.parent / "reader").parent


def _leave_the_mounts() -> None:
    """What is mounted from now on is there for this process and its children alone."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for folder in FOLDERS:
        Path(folder).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
