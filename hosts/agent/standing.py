"""What the worker answers to `leasehold-host status` and `leasehold-host journal`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hosts.agent.control_socket import Answer
from hosts.agent.inventory import worker_version
from hosts.agent.plans import Plan
from hosts.agent.rig import Rig

PLANS_SHOWN = 50


def answers(rig: Rig) -> Mapping[str, Answer]:
    """The questions that the control socket understands."""
    return {"status": lambda: status(rig), "journal": lambda: journal(rig)}


def status(rig: Rig) -> dict[str, Any]:
    """Where the host stands."""
    with rig.journal.transaction():
        return {
            "host": rig.config.host,
            "version": worker_version(),
            "journal_id": str(rig.journal.journal_id),
            "reports_waiting": rig.spool.size(),
            "plans": [_plan(plan) for plan in rig.plans.open()],
            "gpus": [
                {
                    "gpu": str(gpu.gpu_id),
                    "address": gpu.address,
                    "state": gpu.state,
                    "tenure": gpu.tenure,
                    "lease": gpu.lease_id and str(gpu.lease_id),
                }
                for gpu in rig.gpus.all()
            ],
            "machines": [
                {
                    "lease": str(machine.lease_id),
                    "state": machine.state,
                    "desired": machine.desired,
                    "ends_at": machine.ends_at and machine.ends_at.isoformat(),
                }
                for machine in rig.machines.kept()
            ],
        }


def journal(rig: Rig) -> list[dict[str, Any]]:
    """The latest plans, the newest first."""
    return [_plan(plan) for plan in rig.plans.latest(PLANS_SHOWN)]


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan.plan_id,
        "kind": plan.kind,
        "subject": plan.origin.subject,
        "generation": plan.origin.generation,
        "state": plan.state,
        "next_step": plan.step,
        "attempt": plan.attempt,
    }
