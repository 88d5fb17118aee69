"""The plans about machines: which steps they take, and what their end means to the journal and the portal."""

from __future__ import annotations

from functools import partial
from typing import Literal

from hosts.agent import building
from hosts.agent.machine_steps import (
    BIND,
    CLOSE,
    CONFIRM,
    CONNECT,
    DEFINE,
    DESTROY_DISK,
    DISCONNECT,
    IDENTIFY,
    RESERVE,
    START,
    STOP,
    UNDEFINE,
)
from hosts.agent.snapshot_steps import SAVE_BEFORE_END
from hosts.agent.steps import GpuStepFailed, Job, PlanKind, Step
from hosts.protocol.messages import (
    GpuFailed,
    GpuOrder,
    MachineGone,
    MachineRunning,
    MachineStopped,
    ProvisionFailed,
    Release,
)

StopCause = Literal["guest", "command", "deadline", "failure"]


def _is_being_released(job: Job) -> bool:
    machine = job.rig.machines.get(job.lease_id)
    return machine is None or machine.state in ("releasing", "gone")


def _finish_running(job: Job) -> None:
    """A release that was accepted meanwhile has the last word about the machine."""
    if not _is_being_released(job):
        job.rig.machines.set_state(job.lease_id, "on")
        job.rig.uses.begin(job.lease_id, job.rig.clock())
        job.report(MachineRunning(lease_id=job.lease_id, access=building.access(job.rig, job.lease_id)))


def _finish_stopped(job: Job, *, cause: StopCause) -> None:
    if not _is_being_released(job):
        job.rig.machines.set_state(job.lease_id, "off")
        job.report(MachineStopped(lease_id=job.lease_id, cause=cause))


def _finish_release(job: Job) -> None:
    """The machine is gone, what it used is dirty; the scrubs have waited since the release was accepted."""
    goal = job.goal(Release)
    for order in goal.gpus:
        gpu = job.rig.gpus.get(order.gpu_id)
        if gpu is None or not (gpu.is_leased_to_another(goal.lease_id) or gpu.tenure > order.tenure):
            job.rig.gpus.put(order, "dirty", lease_id=None)
    job.rig.machines.set_state(goal.lease_id, "gone")
    job.rig.uses.drop(goal.lease_id)
    job.rig.errors_told.drop(goal.lease_id)
    job.report(MachineGone(lease_id=goal.lease_id))


def _fail_provision(job: Job, step: Step, error: Exception) -> None:
    _set_off(job)
    _report_gpu(job, step, error)
    job.report(ProvisionFailed(lease_id=job.lease_id, step=step.name, reason=str(error)[:2000]))


def _fail_running(job: Job, step: Step, error: Exception) -> None:
    """A machine that could not be brought back. One that could not even be stopped is as it was."""
    if step is not STOP:
        _set_off(job)
        _report_gpu(job, step, error)
        job.report(MachineStopped(lease_id=job.lease_id, cause="failure"))


def _fail_stopping(job: Job, step: Step, error: Exception) -> None:
    """The machine runs on; the step's own report has said so."""


def _fail_release(job: Job, step: Step, error: Exception) -> None:
    """While the machine may still have its GPUs nothing is scrubbed, and nothing is offered."""
    goal = job.goal(Release)
    job.rig.plans.cancel_scrubs(goal.lease_id)
    for order in goal.gpus:
        job.report(_gpu_failed(order, step, str(error)))


def _set_off(job: Job) -> None:
    if not _is_being_released(job):
        job.rig.machines.set_state(job.lease_id, "off")
        job.rig.machines.set_desired(job.lease_id, "off")


def _report_gpu(job: Job, step: Step, error: Exception) -> None:
    if isinstance(error, GpuStepFailed):
        gpu = job.rig.gpus.get(error.order.gpu_id)
        if error.missing:
            job.rig.gpus.set_state(error.order.gpu_id, "missing")
        elif gpu is not None and gpu.state == "clean":  # it never became the lease's
            job.rig.gpus.set_state(gpu.gpu_id, "quarantined")
        job.report(_gpu_failed(error.order, step, str(error), missing=error.missing))


def _gpu_failed(order: GpuOrder, step: Step, reason: str, *, missing: bool = False) -> GpuFailed:
    return GpuFailed(
        gpu_id=order.gpu_id, tenure=order.tenure, step=step.name, reason=reason[:2000], missing=missing
    )


_BRING_UP = (IDENTIFY, BIND, CONNECT, DEFINE, START, CONFIRM)

PROVISION = PlanKind(
    "provision",
    (IDENTIFY, BIND, RESERVE, CONNECT, DEFINE, START, CONFIRM),
    finish=_finish_running,
    fail=_fail_provision,
)
RELEASE = PlanKind(
    "release",
    (CLOSE, STOP, SAVE_BEFORE_END, UNDEFINE, DISCONNECT, DESTROY_DISK),
    finish=_finish_release,
    fail=_fail_release,
)
POWER_ON = PlanKind("power-on", _BRING_UP, finish=_finish_running, fail=_fail_running)
RESTART = PlanKind("power-restart", (STOP, *_BRING_UP), finish=_finish_running, fail=_fail_running)
POWER_OFF = PlanKind(
    "power-off", (STOP,), finish=partial(_finish_stopped, cause="command"), fail=_fail_stopping
)
# The two that no command asks for: bringing machines back with the host, and ending an overdue lease.
RESUME = PlanKind("resume", _BRING_UP, finish=_finish_running, fail=_fail_running)
DEADLINE = PlanKind(
    "deadline", (STOP,), finish=partial(_finish_stopped, cause="deadline"), fail=_fail_stopping
)
