"""Runs plans step by step: what a step's beginning, end and failure mean in the journal and to the portal.

The journal says which step comes next before that step is touched. After a crash the same step is run again.
Which plan is advanced when, and on which thread, is the executor's business.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping
from typing import Literal

from hosts.agent.plans import Plan, PlanState, runnable
from hosts.agent.rig import Rig
from hosts.agent.steps import Job, Overtaken, PlanKind, Step, StepFailed, is_final
from hosts.protocol.messages import Divide, Intake, StepReport, Undivide

log = logging.getLogger(__name__)

Boundary = Callable[[str], None]
StepState = Literal["started", "done", "failed"]


class Runner:
    """`on_boundary` is told "plan:step:before" and "plan:step:after"."""

    def __init__(
        self, rig: Rig, kinds: Mapping[str, PlanKind], *, on_boundary: Boundary = lambda _: None
    ) -> None:
        self._rig = rig
        self._kinds = kinds
        self._on_boundary = on_boundary

    def choose(self, running: Collection[int]) -> list[Plan]:
        """Mark what may begin as running, in one transaction with the look at what is open."""
        with self._rig.journal.transaction():
            chosen = runnable(self._rig.plans.open(), running)
            for plan in chosen:
                self._rig.plans.begin(plan.plan_id)
        return chosen

    def advance(self, plan_id: int) -> bool:
        """Run the plan's next step; whether there is one after it."""
        plan = self._rig.plans.get(plan_id)
        if plan.state not in ("waiting", "running"):
            if plan.state == "cancelling":
                self._rig.plans.set_state(plan_id, "cancelled")
            return False
        kind = self._kinds[plan.kind]
        step = kind.step(plan.step)
        try:
            return self._complete(self._attempt(plan, kind, step), kind, step)
        except Overtaken as reason:
            self._end(plan, kind, step, "cancelled", reason)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the plan has to end in the journal
            self._fail(plan, kind, step, error)
        return False

    def give_up(self, plan: Plan, error: Exception) -> None:
        """Not even the plan's failure could be written. Raises if this cannot either.

        A disk that was full may have room again: what the failure means is tried once more. If it is not the
        journal that fails, the plan ends without: it must not hold its locks for ever.
        """
        current = self._rig.plans.get(plan.plan_id)
        kind = self._kinds[plan.kind]
        step, reason = kind.step(current.step), StepFailed(f"The plan was given up: {error}")
        try:
            self._fail(current, kind, step, reason)
        except sqlite3.Error:
            raise
        except Exception:
            log.exception("What it means that plan %d failed cannot be written", plan.plan_id)
            self._end(current, kind, step, "failed", reason)

    def _attempt(self, plan: Plan, kind: PlanKind, step: Step) -> Plan:
        """Try the step as often as it allows; the plan as it was in the last run, whose error is raised."""
        remaining = step.attempts
        while True:
            remaining -= 1
            try:
                return self._try_once(plan, kind, step)
            except Exception as error:
                if not remaining or is_final(error):
                    raise
                self._report_step(self._rig.plans.get(plan.plan_id), kind, step, "failed", str(error))
                log.warning("%s:%s failed and is tried again: %s", kind.name, step.name, error)

    def _try_once(self, plan: Plan, kind: PlanKind, step: Step) -> Plan:
        with self._rig.journal.transaction():
            begun = self._rig.plans.begin_step(plan.plan_id)
            self._report_step(begun, kind, step, "started")
        log.info("%s:%s begins (plan %d)", kind.name, step.name, plan.plan_id)
        self._on_boundary(f"{kind.name}:{step.name}:before")
        step.run(Job(begun, self._rig))
        self._on_boundary(f"{kind.name}:{step.name}:after")
        return begun

    def _complete(self, plan: Plan, kind: PlanKind, step: Step) -> bool:
        """Record that the step is done; with the last one, in the same transaction, what the plan means."""
        following = kind.after(step)
        with self._rig.journal.transaction():
            self._report_step(plan, kind, step, "done")
            self._rig.plans.end_step(plan.plan_id, following=following)
            if not following:
                self._rig.plans.set_state(plan.plan_id, "done")
                kind.finish(Job(self._rig.plans.get(plan.plan_id), self._rig))
        return bool(following)

    def _fail(self, plan: Plan, kind: PlanKind, step: Step, error: Exception) -> None:
        log.error("%s:%s failed: %s", kind.name, step.name, error, exc_info=not str(error))
        with self._rig.journal.transaction():
            current = self._rig.plans.get(plan.plan_id)
            if current.state == "cancelling":
                self._end(plan, kind, step, "cancelled", error)
            else:
                self._end(plan, kind, step, "failed", error)
                kind.fail(Job(current, self._rig), step, error)

    def _end(self, plan: Plan, kind: PlanKind, step: Step, state: PlanState, reason: Exception) -> None:
        with self._rig.journal.transaction():
            detail = str(reason) or type(reason).__name__
            self._report_step(self._rig.plans.get(plan.plan_id), kind, step, "failed", detail)
            self._rig.plans.set_state(plan.plan_id, state, failure=detail[:2000])

    def _report_step(
        self, plan: Plan, kind: PlanKind, step: Step, state: StepState, detail: str = ""
    ) -> None:
        event = StepReport(
            lease_id=plan.lease_id,
            gpu_id=plan.goal.gpu.gpu_id if isinstance(plan.goal, Intake | Divide | Undivide) else None,
            plan=kind.name,
            step=step.name,
            index=kind.steps.index(step) + 1,
            total=len(kind.steps),
            state=state,
            attempt=plan.attempt,
            detail=detail[:2000],
        )
        self._rig.spool.add(event, plan.origin)
