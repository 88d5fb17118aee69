"""What plans do with snapshots: copy the disk of a machine that is off, and remove a copy."""

from __future__ import annotations

import logging

from hosts.agent import building, disks
from hosts.agent.disks import DiskError, Original
from hosts.agent.home_steps import open_pool, opened_key
from hosts.agent.snapshots import Snapshots
from hosts.agent.steps import Job, PlanKind, Step, StepFailed
from hosts.protocol.messages import Release
from hosts.protocol.snapshots import (
    RemoveSnapshot,
    SnapshotFailed,
    SnapshotOrder,
    SnapshotRemoved,
    SnapshotTaken,
    TakeSnapshot,
)

log = logging.getLogger(__name__)


def _save(job: Job) -> None:
    """Copy the disk, and say so: each time anew, for a crash may have been faster than the report."""
    order = job.goal(TakeSnapshot).snapshot
    job.report(_taken(job, order))


def _save_before_end(job: Job) -> None:
    """Whatever becomes of the copy, the GPUs are others' next: the release goes on."""
    order = job.goal(Release).save
    if order is None:
        return
    try:
        job.report(_taken(job, order))
    except (DiskError, StepFailed, OSError) as error:
        log.error("The disk of %s could not be saved: %s", job.lease_id, error)
        job.report(_failed(job, order, error))


def _taken(job: Job, order: SnapshotOrder) -> SnapshotTaken:
    facts = job.rig.find_machine(job.lease_id)
    if facts is not None and facts.is_active:
        raise StepFailed(f"{facts.name} runs: its disk cannot be copied.")
    path = building.disk_path(job.rig, job.lease_id)
    if not path.exists():
        raise StepFailed("The machine has no disk.")
    encrypted = job.rig.hypervisor.keeps_keys
    size = Snapshots(open_pool(job.rig.config, order.pool)).take(
        order.snapshot_id,
        Original(path, disks.read_key(path) if encrypted else None),
        lease_id=job.lease_id,
        key=opened_key(job.rig, order.sealed_key),
    )
    return SnapshotTaken(snapshot_id=order.snapshot_id, lease_id=job.lease_id, size_bytes=size)


def _failed(job: Job, order: SnapshotOrder, error: Exception) -> SnapshotFailed:
    reason = str(error)[:2000]
    return SnapshotFailed(snapshot_id=order.snapshot_id, lease_id=job.lease_id, reason=reason)


def _not_saved(job: Job, step: Step, error: Exception) -> None:
    job.report(_failed(job, job.goal(TakeSnapshot).snapshot, error))


def _saved(job: Job) -> None:
    """The step has said so."""


def _remove(job: Job) -> None:
    goal = job.goal(RemoveSnapshot)
    Snapshots(open_pool(job.rig.config, goal.pool)).remove(goal.snapshot_id)


def _removed(job: Job) -> None:
    job.report(SnapshotRemoved(snapshot_id=job.goal(RemoveSnapshot).snapshot_id))


def _not_removed(job: Job, step: Step, error: Exception) -> None:
    """It is ordered again; the step's own report has said why it failed."""


SAVE_BEFORE_END = Step("save", _save_before_end)
SNAPSHOT = PlanKind("snapshot", (Step("save", _save),), finish=_saved, fail=_not_saved)
REMOVE_SNAPSHOT = PlanKind("remove-snapshot", (Step("remove", _remove),), finish=_removed, fail=_not_removed)
