"""Plans: what is to be done, in which steps, and how far it has come, as the journal keeps it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from hosts.agent.journal import Journal
from hosts.agent.records import without_keys
from hosts.agent.spool import Clock, Origin
from hosts.protocol.messages import (
    Divide,
    Goal,
    GpuOrder,
    Inspect,
    Intake,
    Power,
    Provision,
    Release,
    RemoveHome,
    RemoveSnapshot,
    TakeSnapshot,
    Undivide,
)

# Of the plans that are over, this many of the latest are kept to be looked at.
KEPT_AT_MOST = 1000

PlanState = Literal["waiting", "running", "cancelling", "done", "failed", "cancelled"]
OVER: tuple[PlanState, ...] = ("done", "failed", "cancelled")
PlanGoal = (
    Provision
    | Release
    | Power
    | Intake
    | Divide
    | Undivide
    | Inspect
    | RemoveHome
    | TakeSnapshot
    | RemoveSnapshot
)


@dataclass(frozen=True)
class Plan:
    """One plan. `step` names the step to run next, empty for the first; `attempt` counts its runs so far.

    `failure` says why it failed. `locks` name what nobody else may touch meanwhile: plans that share one run
    in order of their ids.
    """

    plan_id: int
    kind: str
    origin: Origin
    lease_id: UUID | None
    locks: frozenset[str]
    goal: PlanGoal
    state: PlanState
    step: str
    attempt: int
    progress: bytes | None
    failure: str = ""
    added_at: datetime | None = None
    ended_at: datetime | None = None


def lease_lock(lease_id: UUID) -> str:
    return f"lease:{lease_id}"


def gpu_lock(address: str) -> str:
    """By address: whatever the portal calls it, a card is one thing."""
    return f"gpu:{address}"


def locked_cards(plans: Iterable[Plan]) -> set[str]:
    """Addresses of the cards that these plans work on."""
    locks = {lock for plan in plans for lock in plan.locks}
    return {lock.removeprefix("gpu:") for lock in locks if lock.startswith("gpu:")}


def machine_locks(lease_id: UUID, gpus: Iterable[GpuOrder]) -> set[str]:
    """The machine and all its cards."""
    return {lease_lock(lease_id), *(gpu_lock(gpu.address) for gpu in gpus)}


def runnable(open_plans: Iterable[Plan], running: Iterable[int]) -> list[Plan]:
    """Those that may begin now: not running, and no earlier open plan shares a lock with them."""
    active = set(running)
    taken: set[str] = set()
    ready = []
    for plan in open_plans:
        if plan.plan_id not in active and taken.isdisjoint(plan.locks):
            ready.append(plan)
        taken |= plan.locks
    return ready


class Plans:
    """The table of plans. `on_added` is told after a plan was written, inside the transaction.

    How far a long step has come is kept in memory alone: after a crash it is run again.
    """

    def __init__(
        self, journal: Journal, *, clock: Clock, on_added: Callable[[], None] = lambda: None
    ) -> None:
        self._journal = journal
        self._clock = clock
        self.on_added = on_added
        self._progress: dict[int, tuple[int, int]] = {}

    def add(
        self, kind: str, goal: PlanGoal, origin: Origin, *, lease_id: UUID | None, locks: Iterable[str]
    ) -> int:
        """Write a plan down; its number."""
        with self._journal.transaction():
            cursor = self._journal.execute(
                "INSERT INTO plan"
                " (kind, command_id, subject, generation, lease_id, locks, goal, added_at, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'waiting')",
                kind,
                None if origin.command_id is None else str(origin.command_id),
                origin.subject,
                origin.generation,
                None if lease_id is None else str(lease_id),
                json.dumps(sorted(locks)),
                msgspec.json.encode(goal),
                self._clock().isoformat(),
            )
            self._forget_old()
            self.on_added()
            return cursor.lastrowid or 0

    def _forget_old(self) -> None:
        self._journal.execute(
            "DELETE FROM plan WHERE state IN ('done', 'failed', 'cancelled')"
            " AND id <= (SELECT max(id) FROM plan) - ?",
            KEPT_AT_MOST + 1,
        )

    def open(self) -> list[Plan]:
        """Every plan that is not over, oldest first."""
        with self._journal.transaction():
            return [
                _plan(row)
                for row in self._journal.execute(
                    "SELECT * FROM plan WHERE state IN ('waiting', 'running', 'cancelling') ORDER BY id"
                )
            ]

    def latest(self, count: int) -> list[Plan]:
        """The newest plans, whatever became of them."""
        with self._journal.transaction():
            rows = self._journal.execute("SELECT * FROM plan ORDER BY id DESC LIMIT ?", count)
            return [_plan(row) for row in rows]

    def get(self, plan_id: int) -> Plan:
        with self._journal.transaction():
            return _plan(self._journal.execute("SELECT * FROM plan WHERE id = ?", plan_id).fetchone())

    def of_lease(self, lease_id: UUID) -> list[Plan]:
        """The open plans for a lease's machine; the scrubs that follow it are not among them."""
        return [plan for plan in self.open() if lease_lock(lease_id) in plan.locks]

    def supersede(self, lease_id: UUID) -> None:
        """A release was accepted: what has not begun never will, what runs ends at its next step."""
        with self._journal.transaction():
            for plan in self.of_lease(lease_id):
                if plan.kind != "release":
                    self.set_state(plan.plan_id, "cancelled" if plan.state == "waiting" else "cancelling")

    def cancel_scrubs(self, lease_id: UUID) -> None:
        """The release before them failed: the GPUs may still be in use."""
        with self._journal.transaction():
            for plan in self.open():
                if plan.kind == "scrub" and plan.lease_id == lease_id and plan.state == "waiting":
                    self.set_state(plan.plan_id, "cancelled")

    def begin(self, plan_id: int) -> None:
        """It runs: from now on it keeps its locks until it ends by itself, even when it is overtaken."""
        with self._journal.transaction():
            self._journal.execute(
                "UPDATE plan SET state = 'running' WHERE id = ? AND state = 'waiting'", plan_id
            )

    def begin_step(self, plan_id: int) -> Plan:
        """Count another run of the current step; the plan as it is then."""
        with self._journal.transaction():
            counted = "UPDATE plan SET attempt = attempt + 1 WHERE id = ? RETURNING *"
            return _plan(self._journal.execute(counted, plan_id).fetchone())

    def begin_anew(self, plan_id: int) -> None:
        """From its first step on, with nothing of what it had found out."""
        with self._journal.transaction():
            self._journal.execute(
                "UPDATE plan SET step = '', attempt = 0, progress = NULL WHERE id = ?", plan_id
            )

    def note_progress(self, plan_id: int, done: int, total: int) -> None:
        """How much of the current step is done, in whatever it counts."""
        self._progress[plan_id] = done, total

    def progress(self, plan_id: int) -> tuple[int, int] | None:
        """Done, and total, of the current step, if it says so."""
        return self._progress.get(plan_id)

    def percent(self, plan_id: int) -> int | None:
        """How far the current step is, if it says so."""
        known = self.progress(plan_id)
        return None if known is None else 100 * known[0] // max(known[1], 1)

    def end_step(self, plan_id: int, *, following: str) -> None:
        """The current step is done; what follows is named, empty after the last."""
        self._progress.pop(plan_id, None)
        with self._journal.transaction():
            self._journal.execute("UPDATE plan SET step = ?, attempt = 0 WHERE id = ?", following, plan_id)

    def set_state(self, plan_id: int, state: PlanState, *, failure: str = "") -> None:
        ended_at = self._clock().isoformat() if state in OVER else None
        if ended_at:
            self._progress.pop(plan_id, None)
        with self._journal.transaction():
            self._journal.execute(
                "UPDATE plan SET state = ?, failure = ?, ended_at = ? WHERE id = ?",
                state,
                failure,
                ended_at,
                plan_id,
            )

    def forget_keys(self, lease_id: UUID) -> None:
        """No plan for the lease holds a key of what lies in the pool any more."""
        with self._journal.transaction():
            rows = self._journal.execute(
                "SELECT * FROM plan WHERE lease_id = ? AND kind IN ('provision', 'release', 'snapshot')",
                str(lease_id),
            )
            for plan in map(_plan, rows.fetchall()):
                text = msgspec.json.encode(without_keys(plan.goal))
                self._journal.execute("UPDATE plan SET goal = ? WHERE id = ?", text, plan.plan_id)

    def save_progress(self, plan_id: int, progress: bytes) -> None:
        """What the plan has to know after a crash."""
        with self._journal.transaction():
            self._journal.execute("UPDATE plan SET progress = ? WHERE id = ?", progress, plan_id)


_GOALS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Goal)


def _plan(row: sqlite3.Row) -> Plan:
    return Plan(
        plan_id=row["id"],
        kind=row["kind"],
        origin=Origin(row["subject"], row["generation"], row["command_id"] and UUID(row["command_id"])),
        lease_id=row["lease_id"] and UUID(row["lease_id"]),
        locks=frozenset(json.loads(row["locks"])),
        goal=_GOALS.decode(row["goal"]),
        state=row["state"],
        step=row["step"],
        attempt=row["attempt"],
        progress=row["progress"],
        failure=row["failure"],
        added_at=_moment(row["added_at"]),
        ended_at=_moment(row["ended_at"]),
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
