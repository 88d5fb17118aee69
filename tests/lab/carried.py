"""Programs of these tests that run on the lab's hypervisor: carried in, run, and asked what they saw."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from pathlib import Path
from typing import Any

from lab.hypervisor.machine import VirtualHypervisor
from tools.pace import VARIABLE, slowness

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "/root/plays"
# They and what they are made of; the host program is there.
SOURCES = ("tests/agent/bus_contract.py", "tests/agent/worker_parts.py", "tools/pace.py", "tests/lab/inside")
PLAY_SECONDS = 600.0 * slowness()


def play(hypervisor: VirtualHypervisor, program: str, *words: str) -> dict[str, Any]:
    """Run `tests/lab/inside/PROGRAM.py` with these words; what it saw, which it prints last."""
    hypervisor.put(f"{FOLDER}.tar", _archive())
    hypervisor.run(f"mkdir -p {FOLDER} && tar --directory {FOLDER} --extract --file {FOLDER}.tar")
    command = shlex.join(["/opt/leasehold/bin/python", "-m", f"tests.lab.inside.{program}", *words])
    within = f"cd {FOLDER} && PYTHONPATH={FOLDER} {VARIABLE}={slowness()} {command}"
    told: dict[str, Any] = json.loads(hypervisor.run(within, seconds=PLAY_SECONDS).splitlines()[-1])
    return told


def _archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for source in SOURCES:
            archive.add(ROOT / source, source, filter=_without_bytecode)
    return packed.getvalue()


def _without_bytecode(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry
