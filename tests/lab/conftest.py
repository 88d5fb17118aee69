"""One lab for all tests of a run: booting it costs more than most of what they do on it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lab.hypervisor.image import prepare_image
from lab.hypervisor.machine import WITH_AUDIO, VirtualHypervisor
from lab.running import BOOT_SECONDS, Lab
from tests.lab import fault_injection as faults
from tests.lab.stage import Stage
from tests.lab.workbench import MORE_DEVICES, NODES

# The tests poll; what they ask each time would bury what they find.
logging.getLogger("httpx").setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Both sides are up. With LEASEHOLD_LAB_LOGS set, the logs are copied to that folder at the end.

    The folder has a short name: sockets lie in it, and their paths may not exceed 107 bytes.
    """
    with TemporaryDirectory(prefix="lab-") as name:
        folder = Path(name)
        try:
            with Lab(folder) as lab:
                yield lab
                (folder / "worker.log").write_text(lab.host.worker_log())
        finally:
            keep_logs(folder)


@pytest.fixture(scope="session")
def stage(lab: Lab) -> Stage:
    """The host is enrolled, the GPU that is leased is proven clean."""
    faults.install_lying_scrubber(lab.host)
    faults.install_killable_worker(lab.hypervisor)
    lab.host.enrol()
    lab.host.admit_gpus(WITH_AUDIO)
    return Stage(lab, lab.host)


@pytest.fixture(scope="session")
def workbench() -> Iterator[VirtualHypervisor]:
    """Another one, with more hardware and nobody's worker."""
    with TemporaryDirectory(prefix="lab-") as name:
        folder = Path(name)
        try:
            with VirtualHypervisor(
                prepare_image(), folder, more_devices=MORE_DEVICES, more_words=NODES
            ) as machine:
                machine.boot()
                machine.wait_booted(seconds=BOOT_SECONDS)
                yield machine
        finally:
            keep_logs(folder)


@pytest.fixture(scope="session")
def hypervisor(lab: Lab) -> VirtualHypervisor:
    return lab.hypervisor


def keep_logs(folder: Path) -> None:
    if target := os.environ.get("LEASEHOLD_LAB_LOGS"):
        Path(target).mkdir(parents=True, exist_ok=True)
        for log in folder.rglob("*.log"):
            shutil.copy(log, target)
