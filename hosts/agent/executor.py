"""Carries plans out: a thread for each that runs, one at a time per GPU and lease, resumable anywhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from hosts.agent.plans import Plan
from hosts.agent.rig import Rig
from hosts.agent.runner import Boundary, Runner
from hosts.agent.steps import PlanKind

log = logging.getLogger(__name__)


class Executor:
    """Runs what the journal holds. `on_boundary` is the runner's.

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
        self.runner = Runner(rig, kinds, on_boundary=on_boundary)
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
                for plan in self.runner.choose(list(self._running)):
                    self._begin(plan)
        except Exception:
            log.critical("Plans are no longer begun", exc_info=True)
            self._on_death()

    def _await_change(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._stopping)
            self._pending = False
            return not self._stopping

    def _begin(self, plan: Plan) -> None:
        thread = threading.Thread(
            target=self._run, args=(plan,), name=f"{plan.kind}-{plan.plan_id}", daemon=True
        )
        with self._changed:
            self._running[plan.plan_id] = thread
        thread.start()

    def _run(self, plan: Plan) -> None:
        try:
            while not self._stopping and self.runner.advance(plan.plan_id):
                pass
        except Exception as error:
            log.exception("Plan %d cannot go on", plan.plan_id)
            if self._stopping or not self._give_up(plan, error):
                return
        with self._changed:
            self._running.pop(plan.plan_id, None)
        self.wake()

    def _give_up(self, plan: Plan, error: Exception) -> bool:
        """Whether that could be written. If nothing can, the next start goes on."""
        try:
            self.runner.give_up(plan, error)
        except Exception:
            log.critical("The journal cannot be written", exc_info=True)
            self._on_death()
            return False
        return True
