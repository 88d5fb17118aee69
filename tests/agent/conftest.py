"""The real hypervisor of these tests: libvirt's embedded driver, which allows one root in a process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.debian import DEFAULT_CACHE
from hosts.agent.hypervisor import Hypervisor
from lab.tenant.build import build_tenant
from tests.quick_files import quick_directory

TENANT = DEFAULT_CACHE.parent / "tenant"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory, and removed after the test."""
    with tempfile.TemporaryDirectory(prefix="lh-", dir=quick_directory()) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def embedded_root() -> Iterator[Path]:
    """Short, because sockets below it must fit into 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="lh-") as root:
        yield Path(root)


@pytest.fixture(scope="session")
def embedded(embedded_root: Path) -> Iterator[Hypervisor]:
    hypervisor = Hypervisor.open(f"qemu:///embed?root={embedded_root}")
    yield hypervisor
    for machine in hypervisor.machines():
        hypervisor.destroy(machine.name)
    hypervisor.close()


@pytest.fixture(scope="session")
def tenant_image() -> Path:
    """The folder of the lab's tenant system, built once on this machine."""
    return build_tenant(TENANT).parent
