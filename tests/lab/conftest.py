"""One virtual hypervisor for all tests of a run: booting it costs more than most of what they do on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.hypervisor.image import prepare_image
from lab.hypervisor.machine import VirtualHypervisor

BOOT_SECONDS = 300


@pytest.fixture(scope="session")
def hypervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualHypervisor]:
    """A booted one. Its serial log stays in the run's temporary folder."""
    folder = tmp_path_factory.mktemp("hypervisor")
    with VirtualHypervisor(prepare_image(), folder) as machine:
        machine.boot()
        machine.wait_booted(seconds=BOOT_SECONDS)
        yield machine
