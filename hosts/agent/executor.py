"""Carries plans out: one thread per running plan, one plan at a time per GPU and lease, resumable anywhere.

The journal says which step comes next before that step is touched. After a crash the same step is run again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal

from hosts.agent.plans import Plan, PlanState, runnable
from hosts.agent.rig import Rig
from hosts.agent.steps import Job, Overtaken, PlanKind, Step, StepFailed, is_final
from hosts.protocol.messages import Intake, StepReport

log = logging.getLogger(__name__)

Boundary = Callable[[str], None]
StepState = Literal["started", "done", "failed"]


class Executor:
    """Runs what the journal holds. `on_boundary` is told "plan:step:before" and "plan:step:after".

    `on_death` is called when the journal can no longer be used: only a restart goes on from there.
    """

    def __init__(
        self,
        rig: Rig,
        kinds: Mapping[str, PlanKind],
        *,
        on_boundary: Boundary = lambda _: None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._rig = rig
        self._kinds = kinds
        self._on_boundary = on_boundary
        self._on_death = on_death
        self._changed = threading.Condition()
        self._running: dict[int, threading.Thread] = {}
        self._pending = True
        self._stopping = False
        self._scheduler = threading.Thread(target=self._schedule, name="executor", daemon=True)
        rig.plans.on_added = self.wake

    def start(self) -> None:
        self._scheduler.start()

    def wake(self) -> None:
        """Look at the journal again: there may be something to begin."""
        with self._changed:
            self._pending = True
            self._changed.notify_all()

    def stop(self, *, seconds: float) -> None:
        """Begin nothing more and let running steps end; what does not is resumed at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline = time.monotonic() + seconds
        if self._scheduler.is_alive():
            self._scheduler.join(seconds)
        for thread in list(self._running.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _schedule(self) -> None:
        try:
            while self._await_change():
                for plan in self._choose():
                    self._begin(plan)
        except Exception:
            log.critical("Plans are no longer begun", exc_info=True)
            self._on_death()

    def _await_change(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._stopping)
            self._pending = False
            return not self._stopping

    def _choose(self) -> list[Plan]:
        """Mark what may begin as running, in one transaction with the look at what is open."""
        with self._rig.journal.transaction():
            chosen = runnable(self._rig.plans.open(), list(self._running))
            for plan in chosen:
                self._rig.plans.begin(plan.plan_id)
        return chosen

    def _begin(self, plan: Plan) -> None:
        thread = threading.Thread(
            target=self._run, args=(plan,), name=f"{plan.kind}-{plan.plan_id}", daemon=True
        )
        with self._changed:
            self._running[plan.plan_id] = thread
        thread.start()

    def _run(self, plan: Plan) -> None:
        try:
            while not self._stopping and self._advance(plan.plan_id):
                pass
        except Exception as error:
            log.exception("Plan %d cannot go on", plan.plan_id)
            if self._stopping or not self._give_up(plan, error):
                return
        with self._changed:
            self._running.pop(plan.plan_id, None)
        self.wake()

    def _give_up(self, plan: Plan, error: Exception) -> bool:
        """Not even the plan's failure could be written. False if nothing can: the next start goes on then.

        A plan must not hold its locks for ever: what it is about could be neither stopped nor released.
        """
        try:
            current = self._rig.plans.get(plan.plan_id)
            kind = self._kinds[plan.kind]
            reason = StepFailed(f"The plan was given up: {error}")
            self._end(current, kind, kind.step(current.step), "failed", reason)
        except Exception:
            log.critical("The journal cannot be written", exc_info=True)
            self._on_death()
            return False
        return True

    def _advance(self, plan_id: int) -> bool:
        """Run the plan's next step; whether there is one after it."""
        plan = self._rig.plans.get(plan_id)
        if plan.state not in ("waiting", "running"):
            if plan.state == "cancelling":
                self._rig.plans.set_state(plan_id, "cancelled")
            return False
        kind = self._kinds[plan.kind]
        step = kind.step(plan.step)
        try:
            self._attempt(plan, kind, step)
            return self._complete(plan, kind, step)
        except Overtaken as reason:
            self._end(plan, kind, step, "cancelled", reason)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the plan has to end in the journal
            self._fail(plan, kind, step, error)
        return False

    def _attempt(self, plan: Plan, kind: PlanKind, step: Step) -> None:
        """Try the step as often as it allows. The last error goes to the caller."""
        for remaining in reversed(range(step.attempts)):
            try:
                self._try_once(plan, kind, step)
            except Exception as error:
                if not remaining or is_final(error):
                    raise
                self._report_step(plan, kind, step, "failed", str(error))
                log.warning("%s:%s failed and is tried again: %s", kind.name, step.name, error)
            else:
                return

    def _try_once(self, plan: Plan, kind: PlanKind, step: Step) -> None:
        with self._rig.journal.transaction():
            self._rig.plans.begin_step(plan.plan_id)
            self._report_step(plan, kind, step, "started")
        log.info("%s:%s begins (plan %d)", kind.name, step.name, plan.plan_id)
        self._on_boundary(f"{kind.name}:{step.name}:before")
        step.run(Job(self._rig.plans.get(plan.plan_id), self._rig))
        self._on_boundary(f"{kind.name}:{step.name}:after")

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
            self._report_step(plan, kind, step, "failed", detail)
            self._rig.plans.set_state(plan.plan_id, state, failure=detail[:2000])

    def _report_step(
        self, plan: Plan, kind: PlanKind, step: Step, state: StepState, detail: str = ""
    ) -> None:
        attempt = self._rig.plans.get(plan.plan_id).attempt
        event = StepReport(
            lease_id=plan.lease_id,
            gpu_id=plan.goal.gpu.gpu_id if isinstance(plan.goal, Intake) else None,
            plan=kind.name,
            step=step.name,
            index=kind.steps.index(step) + 1,
            total=len(kind.steps),
            state=state,
            attempt=attempt,
            detail=detail[:2000],
        )
        self._rig.spool.add(event, plan.origin)
