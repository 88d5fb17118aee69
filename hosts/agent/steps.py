"""What plans are made of: small steps that may be run again after a crash at any moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from hosts.agent.bus import CardMissing, Wedged
from hosts.agent.plans import Plan
from hosts.protocol.fields import Message
from hosts.protocol.messages import Event, GpuOrder

if TYPE_CHECKING:
    from hosts.agent.rig import Rig

G = TypeVar("G", bound=Message)


class StepFailed(Exception):
    """A step cannot be done, or was done and did not take effect; the text is for an operator."""


class GpuStepFailed(StepFailed):
    """A step failed because of what one of the GPUs did, or became. A wedged one is not touched again."""

    def __init__(self, order: GpuOrder, error: Exception) -> None:
        super().__init__(f"{order.address}: {error}")
        self.order = order
        self.missing = isinstance(error, CardMissing)
        self.wedged = isinstance(error, Wedged)


def is_final(error: Exception) -> bool:
    """Trying again is of no use, or would do harm."""
    return isinstance(error, Wedged | Overtaken) or (isinstance(error, GpuStepFailed) and error.wedged)


class Overtaken(Exception):
    """The plan must not go on: what it is about has meanwhile become somebody else's."""


@dataclass(frozen=True)
class Job:
    """A running plan and what it works with."""

    plan: Plan
    rig: Rig

    def goal(self, kind: type[G]) -> G:
        """The plan's goal, which must be of that kind."""
        if not isinstance(self.plan.goal, kind):
            raise TypeError(f"Plan {self.plan.kind} has a {type(self.plan.goal).__name__} for a goal.")
        return self.plan.goal

    @property
    def lease_id(self) -> UUID:
        if self.plan.lease_id is None:
            raise TypeError(f"Plan {self.plan.kind} is not about a lease.")
        return self.plan.lease_id

    def report(self, event: Event) -> None:
        self.rig.spool.add(event, self.plan.origin)


def _never(job: Job) -> bool:
    return False


@dataclass(frozen=True)
class Step:
    """Check, apply, verify. A step whose `check` holds is not applied; after `apply`, `check` must hold.

    A step without `check` is applied each time it is reached, and verifies itself by raising.
    `attempts` bounds the tries within one run of the program.
    """

    name: str
    apply: Callable[[Job], None]
    check: Callable[[Job], bool] | None = None
    attempts: int = 1

    def run(self, job: Job) -> None:
        if (self.check or _never)(job):
            return
        self.apply(job)
        if self.check is not None and not self.check(job):
            raise StepFailed(f"{self.name} was carried out but has not taken effect.")


@dataclass(frozen=True)
class PlanKind:
    """A plan's steps, and what its end means to the journal and the portal.

    `finish` and `fail` run inside the transaction that ends the plan: they write and report, nothing else.
    """

    name: str
    steps: tuple[Step, ...]
    finish: Callable[[Job], None]
    fail: Callable[[Job, Step, Exception], None]

    def step(self, name: str) -> Step:
        """The step of that name. A name that an older version of this program wrote begins the plan anew."""
        return next((step for step in self.steps if step.name == name), self.steps[0])

    def after(self, step: Step) -> str:
        """The name of the step that follows, empty after the last."""
        names = [*(each.name for each in self.steps), ""]
        return names[self.steps.index(step) + 1]
