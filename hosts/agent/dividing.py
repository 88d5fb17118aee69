"""The plans that divide a card into slices and make it whole again. Neither makes anything clean.

The journal knows of the division before the first file is written: a worker that is killed in between finds
what there is, and goes on or begins anew.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from hosts.agent.bus import BusError, Card
from hosts.agent.divisions import (
    Division,
    division_of,
    forget_division,
    give_up_division,
    remember_division,
)
from hosts.agent.rig import Rig
from hosts.agent.steps import Job, PlanKind, Step, StepFailed
from hosts.protocol.messages import Divide, Divided, DivisionFailed, GpuOrder, Undivide, Undivided


def _order(job: Job) -> GpuOrder:
    goal = job.plan.goal
    if not isinstance(goal, Divide | Undivide):
        raise TypeError(f"Plan {job.plan.kind} divides nothing.")
    return goal.gpu


def _card(job: Job) -> Card:
    return job.rig.bus.card(_order(job).address)


def _wanted(job: Job) -> Division:
    goal, order = job.goal(Divide), _order(job)
    return Division(
        gpu_id=order.gpu_id,
        tenure=order.tenure,
        address=order.address,
        profile=goal.profile,
        count=goal.count,
    )


def _refuse_if_used(rig: Rig, addresses: set[str]) -> None:
    for facts in rig.hypervisor.machines():
        if facts.is_active and (used := addresses & facts.pci_addresses):
            raise StepFailed(f"{', '.join(sorted(used))} is in use by {facts.name}.")


def _claim_whole(job: Job) -> None:
    """Only a card that is proven clean here is divided: whoever gets a slice gets a part of its memory.

    One that is divided so already, of which the journal was lost, is taken as it is.
    """
    wanted, card = _wanted(job), _card(job)
    _refuse_if_used(job.rig, {*card.functions})
    gpu = job.rig.gpus.get(wanted.gpu_id)
    is_clean = gpu is not None and gpu.state == "clean"
    is_begun = division_of(job.rig, wanted.address) is not None
    if not (is_clean or is_begun or _is_as_wanted(job)):
        raise StepFailed(f"{wanted.address} is not known to be clean.")
    with job.rig.journal.transaction():
        remember_division(job.rig, wanted)
        job.rig.gpus.put(_order(job), "dirty", lease_id=None)


def _is_as_wanted(job: Job) -> bool:
    return _wanted(job).compare(job.rig.bus.slices(_card(job))) == "as-ordered"


def _divide(job: Job) -> None:
    """All of it or nothing: what is there otherwise, or was made in part, is taken away."""
    wanted, card = _wanted(job), _card(job)
    job.rig.bus.undivide(card)
    try:
        job.rig.bus.divide(card, wanted.profile, wanted.count)
        if not _is_as_wanted(job):
            made = len(job.rig.bus.slices(card))
            raise StepFailed(f"{wanted.count} slices were asked for, and {made} were made.")
    except (BusError, StepFailed):
        with suppress(BusError):
            job.rig.bus.undivide(card)
        raise


def _note(job: Job) -> None:
    made = tuple(each.address for each in job.rig.bus.slices(_card(job)))
    remember_division(job.rig, msgspec.structs.replace(_wanted(job), slices=made))


def _finish_divide(job: Job) -> None:
    order, division = _order(job), division_of(job.rig, _order(job).address)
    slices = division.slices if division else ()
    profile = job.goal(Divide).profile
    job.report(Divided(gpu_id=order.gpu_id, tenure=order.tenure, profile=profile, slices=slices))


def _fail_divide(job: Job, step: Step, error: Exception) -> None:
    order = _order(job)
    if step.name != "claim":
        give_up_division(job.rig, order.address)
    job.report(_failed(order, f"{step.name}: {error}", divided=False))


def _claim_slices(job: Job) -> None:
    order = _order(job)
    there = {each.address for each in job.rig.bus.slices(_card(job))}
    _refuse_if_used(job.rig, there)
    for gpu in job.rig.gpus.all():
        if gpu.address in there and gpu.state in ("leased", "scrubbing"):
            raise StepFailed(f"{gpu.address} is {gpu.state}.")
    job.rig.gpus.put(order, "dirty", lease_id=None)


def _undivide(job: Job) -> None:
    job.rig.bus.undivide(_card(job))


def _is_whole(job: Job) -> bool:
    return not job.rig.bus.slices(_card(job))


def _finish_undivide(job: Job) -> None:
    order, division = _order(job), division_of(job.rig, _order(job).address)
    for gpu in job.rig.gpus.all():
        if division and gpu.address in division.slices:
            job.rig.gpus.set_state(gpu.gpu_id, "missing")
    forget_division(job.rig, order.address)
    job.report(Undivided(gpu_id=order.gpu_id, tenure=order.tenure))


def _fail_undivide(job: Job, step: Step, error: Exception) -> None:
    job.report(_failed(_order(job), f"{step.name}: {error}", divided=True))


def _failed(order: GpuOrder, reason: str, *, divided: bool) -> DivisionFailed:
    return DivisionFailed(gpu_id=order.gpu_id, tenure=order.tenure, reason=reason[:2000], divided=divided)


DIVIDE = PlanKind(
    "divide",
    (Step("claim", _claim_whole), Step("divide", _divide, check=_is_as_wanted), Step("note", _note)),
    finish=_finish_divide,
    fail=_fail_divide,
)
UNDIVIDE = PlanKind(
    "undivide",
    (Step("claim", _claim_slices), Step("undivide", _undivide, check=_is_whole)),
    finish=_finish_undivide,
    fail=_fail_undivide,
)
