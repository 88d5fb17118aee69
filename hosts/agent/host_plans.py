"""Every kind of plan there is, and the smallest of them: looking around."""

from __future__ import annotations

from collections.abc import Mapping

from hosts.agent.check_up import check_up_of
from hosts.agent.dividing import DIVIDE, UNDIVIDE
from hosts.agent.home_steps import REMOVE_HOME
from hosts.agent.inventory import take_inventory
from hosts.agent.machine_plans import DEADLINE, POWER_OFF, POWER_ON, PROVISION, RELEASE, RESTART, RESUME
from hosts.agent.resetting import RESET
from hosts.agent.scrubbing import INTAKE, SCRUB
from hosts.agent.snapshot_steps import REMOVE_SNAPSHOT, SNAPSHOT
from hosts.agent.steps import Job, PlanKind, Step
from hosts.protocol.checkup import CheckUp


def _look(job: Job) -> None:
    """The inventory comes last: it is what answers the order."""
    if job.rig.spool.spoken >= CheckUp.SINCE:
        job.report(check_up_of(job.rig))
    job.report(take_inventory(job.rig))


def _nothing(job: Job) -> None:
    """The report was the whole point."""


def _nothing_failed(job: Job, step: Step, error: Exception) -> None:
    """The step's own report has said so."""


INSPECT = PlanKind("inspect", (Step("look", _look),), finish=_nothing, fail=_nothing_failed)

PLAN_KINDS: Mapping[str, PlanKind] = {
    kind.name: kind
    for kind in (
        PROVISION,
        RELEASE,
        SCRUB,
        INTAKE,
        RESET,
        DIVIDE,
        UNDIVIDE,
        POWER_ON,
        POWER_OFF,
        RESTART,
        RESUME,
        DEADLINE,
        INSPECT,
        REMOVE_HOME,
        SNAPSHOT,
        REMOVE_SNAPSHOT,
    )
}
