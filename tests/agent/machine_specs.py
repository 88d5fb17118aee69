"""Machine specifications that tests start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from hosts.agent.domain import MachineSpec, UefiDisk

LEASE = UUID("6f0f8f3e-2f0a-4d0e-9a53-0d3f6c1f2b10")
MACHINE = UUID("0b6a3a52-8f55-4a1c-8a43-3f2d7f0c9e21")


def idle_machine(folder: Path, **changes: Any) -> MachineSpec:
    """Firmware that finds nothing to boot: enough to be defined, started and stopped."""
    spec = MachineSpec(
        name="lease-one",
        uuid=MACHINE,
        lease_id=LEASE,
        generation=3,
        vcpus=1,
        memory_mib=64,
        boot=UefiDisk(nvram=folder / "lease-one.nvram"),
        disk=None,
        serial_log=folder / "lease-one.serial",
        domain_type="qemu",
    )
    return replace(spec, **changes)
