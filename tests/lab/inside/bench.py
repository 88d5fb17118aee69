"""A worker's parts on the hypervisor's own hardware, with a journal of their own and no broker."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from hosts.agent import guest
from hosts.agent.config import DEFAULT_CONFIG, Config, load_settings
from hosts.agent.hardware import Hardware, open_hardware
from hosts.agent.images import sha256_of
from hosts.protocol.messages import (
    Accepted,
    Goal,
    GpuOrder,
    ImageOrder,
    Intake,
    Inventory,
    MachineOrder,
    Provision,
    Release,
    ScrubPolicy,
    ScrubStarted,
    StepReport,
)
from hosts.protocol.signing import public_hex
from tests.agent.worker_parts import HOST, WorkerParts, wait_for
from tools.pace import slowness

TENANT = Path("/opt/leasehold/images/tenant")
GUEST_SECONDS = 200.0 * slowness()
# What is said on the way, and of no use to who asks for the end.
ON_THE_WAY = (Accepted, Inventory, ScrubStarted, StepReport)


class Bench(WorkerParts):
    """The worker as the role configured it, but for what `changes`. Scrubbers are those that are built in.

    `name` keeps its journal and its machines' files apart from those of others.
    """

    patience = GUEST_SECONDS

    def __init__(self, name: str, **changes: Any) -> None:
        super().__init__()
        settings = msgspec.structs.asdict(load_settings(DEFAULT_CONFIG))
        changes["state_directory"] = settings["state_directory"] / name
        changes["state_directory"].mkdir(mode=0o711)
        self.config = Config(
            **(settings | {"scrubbers": None} | changes),
            host=HOST,
            portal="https://portal.example",
            broker_url="memory://",
            control_keys=(public_hex(self.control.key),),
        )
        self.open()
        self.start()

    def make_hardware(self) -> Hardware:
        return open_hardware(self.config)

    def ask(self, goal: Goal, subject: str) -> list[dict[str, Any]]:
        """Carry it out; what the portal was told at last."""
        before = len(self.reports())
        self.carry_out(goal, subject=subject)
        events = [report.event for report in self.reports()[before:]]
        return [msgspec.to_builtins(event) for event in events if not isinstance(event, ON_THE_WAY)]

    def intake(self, order: GpuOrder) -> list[dict[str, Any]]:
        return self.ask(Intake(gpu=order, scrub=ScrubPolicy()), f"gpu:{order.gpu_id}")

    def provision(self, lease: int, *gpus: GpuOrder, **machine: Any) -> None:
        """A machine with the lab's tenant, which is up when this returns."""
        image = ImageOrder(
            name=TENANT.name, format="direct-kernel", digest=sha256_of(TENANT / "manifest.json")
        )
        order = MachineOrder(name=name_of(lease), vcpus=1, memory_mib=192, disk_gib=0, image=image, **machine)
        goal = Provision(
            lease_id=UUID(int=lease),
            ends_at=self.now + timedelta(hours=1),
            grace_seconds=60,
            gpus=gpus,
            machine=order,
        )
        told = self.ask(goal, f"lease:{UUID(int=lease)}")
        assert [event["type"] for event in told] == ["machine-running"], told
        wait_for(lambda: self._is_up(lease), seconds=GUEST_SECONDS)

    def release(self, lease: int, *gpus: GpuOrder) -> list[dict[str, Any]]:
        goal = Release(lease_id=UUID(int=lease), gpus=gpus, shutdown_seconds=0, scrub=ScrubPolicy())
        return self.ask(goal, f"lease:{UUID(int=lease)}")

    def guest_says(self, lease: int, command: str) -> str:
        """What a shell of the guest's prints, asked through its agent."""
        pid: int = self._agent(lease, "guest-exec", path="/bin/sh", arg=["-c", command])["pid"]
        ended: dict[str, Any] = {}

        def has_ended() -> bool:
            ended.update(self._agent(lease, "guest-exec-status", pid=pid))
            return bool(ended["exited"])

        wait_for(has_ended, seconds=GUEST_SECONDS)
        assert ended["exitcode"] == 0, (command, ended)
        return base64.b64decode(ended.get("out-data", "")).decode()

    def _is_up(self, lease: int) -> bool:
        log = self.config.machines_directory / f"{UUID(int=lease)}.log"
        is_ready = log.exists() and "leasehold tenant ready" in log.read_text(errors="replace")
        return is_ready and guest.ask(self.rig.hypervisor, name_of(lease)) is not None

    def _agent(self, lease: int, command: str, **words: Any) -> dict[str, Any]:
        capture = {"capture-output": True} if command == "guest-exec" else {}
        answer = self.rig.hypervisor.ask_guest(name_of(lease), command, words | capture, seconds=20)
        returned: dict[str, Any] = json.loads(answer)["return"]
        return returned


def name_of(lease: int) -> str:
    return f"lease-{lease}"
