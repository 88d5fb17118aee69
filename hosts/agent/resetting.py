"""The plan of a reset that somebody on the host has ordered: claim, bind, reset. It makes nothing clean."""

from __future__ import annotations

import time

import msgspec

from hosts.agent import reset
from hosts.agent.bus import CardMissing
from hosts.agent.scrubbing import BIND, refuse_if_in_use
from hosts.agent.steps import Job, Overtaken, PlanKind, Step, StepFailed
from hosts.protocol.messages import GpuFailed, GpuOrder, GpuReset, Intake, ResetRecord


def _gpu(job: Job) -> GpuOrder:
    return job.goal(Intake).gpu


def _claim(job: Job) -> None:
    order = _gpu(job)
    gpu = job.rig.gpus.get(order.gpu_id)
    if gpu is None or gpu.tenure > order.tenure or gpu.state == "leased":
        raise Overtaken(f"GPU {order.gpu_id} belongs to somebody else by now.")
    refuse_if_in_use(job, order)


def _reset(job: Job) -> None:
    record = reset.climb(job.rig.bus, job.rig.bus.card(_gpu(job).address), clock=time.monotonic)
    job.rig.plans.save_progress(job.plan.plan_id, msgspec.json.encode(record))


def _finish(job: Job) -> None:
    order = _gpu(job)
    if job.plan.progress is None:
        raise StepFailed("The journal has no record of this reset.")
    record = msgspec.json.decode(job.plan.progress, type=ResetRecord)
    job.report(GpuReset(gpu_id=order.gpu_id, tenure=order.tenure, record=record))


def _fail(job: Job, step: Step, error: Exception) -> None:
    order, missing = _gpu(job), isinstance(error, CardMissing)
    job.rig.gpus.set_state(order.gpu_id, "missing" if missing else "quarantined")
    job.report(
        GpuFailed(
            gpu_id=order.gpu_id,
            tenure=order.tenure,
            step=step.name,
            reason=str(error)[:2000],
            missing=missing,
        )
    )


RESET = PlanKind("reset", (Step("claim", _claim), BIND, Step("reset", _reset)), finish=_finish, fail=_fail)
