"""What is answered to the `leasehold-host` commands: by the running worker, or from its journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from hosts.agent.check_up import whole_check_up_of
from hosts.agent.control_socket import Answer, Refused
from hosts.agent.drift_notes import differences_found
from hosts.agent.inventory import take_inventory, worker_version
from hosts.agent.orders import Action, OrderRefused, follow, order
from hosts.agent.plans import Plan
from hosts.agent.rig import Books, Rig

PLANS_SHOWN = 50
PLANS_AT_MOST = 1000


def answers(rig: Rig) -> Mapping[str, Answer]:
    """The questions that the control socket understands."""
    return {
        "status": lambda _: iter([status(rig)]),
        "journal": lambda asked: iter([journal(rig, asked.get("count", PLANS_SHOWN))]),
        "inventory": lambda _: iter([msgspec.to_builtins(take_inventory(rig))]),
        "doctor": lambda _: iter([doctor(rig)]),
        "scrub": lambda asked: carry_out(rig, "scrub", **asked),
        "reset": lambda asked: carry_out(rig, "reset", **asked),
    }


def doctor(rig: Rig) -> Any:
    """Everything that is found now."""
    return msgspec.to_builtins(whole_check_up_of(rig))


def carry_out(rig: Rig, action: Action, *, address: str, by: str) -> Iterator[Any]:
    """Order it, and say how it goes. It goes on whether anybody listens or not."""
    try:
        plan_id = order(rig, action, address, by=by)
    except OrderRefused as error:
        raise Refused(str(error), error.hint) from error
    yield {"ordered": plan_id}
    yield from follow(rig, plan_id)


def status(rig: Books) -> dict[str, Any]:
    """Where the host stands."""
    with rig.journal.transaction():
        return {
            "host": rig.config.host,
            "portal": rig.config.portal,
            "version": worker_version(),
            "protocol": rig.spool.spoken,
            "journal_id": str(rig.journal.journal_id),
            "reports_waiting": rig.spool.size(),
            "plans": [_plan(rig, plan) for plan in rig.plans.open()],
            "differences": msgspec.to_builtins(differences_found(rig)),
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
            "images": [
                {
                    "name": copy.image.name,
                    "state": copy.state,
                    "percent": 100 * copy.done // max(copy.image.size, 1),
                    "reason": copy.reason,
                }
                for copy in rig.copies.all()
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


def journal(rig: Books, count: object) -> list[dict[str, Any]]:
    """The latest plans, the newest first."""
    if not isinstance(count, int) or not 0 < count <= PLANS_AT_MOST:
        raise Refused(f"Between 1 and {PLANS_AT_MOST} plans can be shown.")
    return [_plan(rig, plan) for plan in rig.plans.latest(count)]


def _plan(rig: Books, plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan.plan_id,
        "kind": plan.kind,
        "subject": plan.origin.subject,
        "generation": plan.origin.generation,
        "state": plan.state,
        "next_step": plan.step,
        "percent": rig.plans.percent(plan.plan_id),
        "attempt": plan.attempt,
        "failure": plan.failure,
        "added_at": plan.added_at and plan.added_at.isoformat(),
        "ended_at": plan.ended_at and plan.ended_at.isoformat(),
    }
