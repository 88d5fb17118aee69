"""What somebody on the host may order for a GPU that nobody uses: a scrub, or a reset.

It goes the way of every order: a plan in the journal, reports to the portal. The GPU is dirty from that
moment; whether it is clean afterwards, the portal judges.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Set
from typing import Any, Literal

from hosts.agent.bus import BusError, CardMissing
from hosts.agent.host_plans import PLAN_KINDS
from hosts.agent.plans import OVER, Plan, gpu_lock
from hosts.agent.records import GpuRecord
from hosts.agent.rig import Rig
from hosts.agent.scrubbing import scrub_evidence
from hosts.protocol.messages import GpuOrder, Intake, Ordered, Release, ScrubPolicy

Action = Literal["scrub", "reset"]
PLANS_SEARCHED = 1000
FOLLOW_SECONDS = 0.1


class OrderRefused(Exception):
    """The order changes nothing: what is so, and what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def order(
    rig: Rig,
    action: Action,
    address: str,
    *,
    by: str,
    reason: str = "",
    doubted: GpuRecord | None = None,
) -> int:
    """Have the GPU at this address scrubbed or reset; the number of the plan. OrderRefused.

    `reason` says why, for the portal. A GPU that is `doubted` is so whatever its state, if it is still as it
    was then.
    """
    _check_card(rig, address)
    with rig.journal.transaction():
        gpu = _gpu_at(rig, address)
        _check_free(rig, gpu, doubted=doubted)
        _check_state(gpu, action)
        policy = _policy_of(rig, gpu) if action == "scrub" else ScrubPolicy()
        goal = Intake(gpu=GpuOrder(gpu_id=gpu.gpu_id, tenure=gpu.tenure, address=gpu.address), scrub=policy)
        origin = rig.spool.origin_of(f"gpu:{gpu.gpu_id}")
        if gpu.state != "quarantined":
            rig.gpus.set_state(gpu.gpu_id, "dirty")
        rig.spool.void_scrubs(gpu.gpu_id)
        ordered = Ordered(
            gpu_id=gpu.gpu_id, tenure=gpu.tenure, action=action, by=by[:200], reason=reason[:2000]
        )
        rig.spool.add(ordered, origin)
        return rig.plans.add(action, goal, origin, lease_id=None, locks={gpu_lock(gpu.address)})


def _check_card(rig: Rig, address: str) -> None:
    """A card that a machine has is not touched."""
    _check_users(rig, address, {address})
    try:
        card = rig.bus.card(address)
    except CardMissing as error:
        raise OrderRefused(str(error), "`leasehold-host inventory` lists the cards by address.") from error
    except BusError as error:
        raise OrderRefused(str(error)) from error
    _check_users(rig, address, set(card.functions))


def _check_users(rig: Rig, address: str, functions: Set[str]) -> None:
    running = (facts for facts in rig.hypervisor.machines() if facts.is_active)
    users = [facts.name for facts in running if not facts.pci_addresses.isdisjoint(functions)]
    if users:
        raise OrderRefused(
            f"{address} is in use by the machine {', '.join(users)}.",
            "Wait until its lease has ended, or end it at the portal.",
        )


def _gpu_at(rig: Rig, address: str) -> GpuRecord:
    found = [gpu for gpu in rig.gpus.at(address) if gpu.state != "missing"]
    if len(found) == 1:
        return found[0]
    if found:
        raise OrderRefused(
            f"More than one GPU was in service at {address}: cards were exchanged.",
            "At the portal, try the intake of the one that is there now.",
        )
    raise OrderRefused(
        f"The card at {address} is not in service.",
        "Take it into service at the portal; its intake resets and scrubs it.",
    )


def _check_free(rig: Rig, gpu: GpuRecord, *, doubted: GpuRecord | None) -> None:
    if doubted and gpu != doubted:
        raise OrderRefused(f"{gpu.address} is {gpu.state} by now.")
    if gpu.state == "leased" and not doubted:
        raise OrderRefused(
            f"{gpu.address} is leased to {gpu.lease_id}.",
            "Wait until the lease has ended, or end it at the portal; it is scrubbed then.",
        )
    for plan in rig.plans.open():
        if gpu_lock(gpu.address) in plan.locks:
            raise OrderRefused(
                f"{gpu.address} is being worked on: plan {plan.plan_id} ({plan.kind}).",
                "Wait for it; `leasehold-host journal` shows what becomes of it.",
            )


def _check_state(gpu: GpuRecord, action: Action) -> None:
    """A reset may help a quarantined card, but only the portal lets it back."""
    if gpu.state == "quarantined" and action == "scrub":
        raise OrderRefused(
            f"{gpu.address} is quarantined: only the portal lets it back.",
            "On its page choose “Try intake again”: that scrubs it.",
        )


def _policy_of(rig: Rig, gpu: GpuRecord) -> ScrubPolicy:
    """The policy of the last order of the portal's that said how this GPU is scrubbed."""
    for plan in rig.plans.latest(PLANS_SEARCHED):
        match plan.goal:
            case Intake(gpu=named, scrub=policy) if named.gpu_id == gpu.gpu_id and plan.kind != "reset":
                return policy
            case Release(gpus=gpus, scrub=policy) if gpu.gpu_id in {each.gpu_id for each in gpus}:
                return policy
    raise OrderRefused(
        f"How {gpu.address} is to be scrubbed is not known here any more.",
        "Withdraw and readmit it at the portal: the intake scrubs it.",
    )


def follow(rig: Rig, plan_id: int) -> Iterator[dict[str, Any]]:
    """Each step of the plan as it begins, and how far it has come; then what has become of the plan. It goes
    on without listeners."""
    shown: dict[str, Any] = {}
    while (plan := rig.plans.get(plan_id)).state not in OVER:
        progress = rig.plans.progress(plan_id)
        for name, told in (("step", _step(plan)), ("progress", progress)):
            if plan.state != "waiting" and told and told != shown.get(name):
                shown[name] = told
                yield {name: told}
        time.sleep(FOLLOW_SECONDS)
    yield {"done": _outcome(rig, plan)}


def _step(plan: Plan) -> dict[str, Any]:
    kind = PLAN_KINDS[plan.kind]
    step = kind.step(plan.step)
    return {"name": step.name, "index": kind.steps.index(step) + 1, "total": len(kind.steps)}


def _outcome(rig: Rig, plan: Plan) -> dict[str, Any]:
    """`in_order`: the reset worked, or the scrub has passed before the host's own eyes."""
    goal = plan.goal
    if not isinstance(goal, Intake):
        raise TypeError(f"Plan {plan.plan_id} is about no single GPU.")
    gpu = rig.gpus.get(goal.gpu.gpu_id)
    evidence = scrub_evidence(plan) if plan.kind == "scrub" else None
    return {
        "plan": plan.plan_id,
        "kind": plan.kind,
        "address": goal.gpu.address,
        "state": plan.state,
        "gpu_state": gpu and gpu.state,
        "in_order": plan.state == "done" and (evidence is None or evidence.verdict == "passed"),
        "reasons": [plan.failure] if plan.failure else [*(evidence.reasons if evidence else ())],
    }
