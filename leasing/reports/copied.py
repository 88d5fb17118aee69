"""What hosts say about snapshots."""

from __future__ import annotations

from datetime import datetime

import msgspec

from hosts.models import Host, ReceivedReport
from hosts.protocol import messages as m
from hosts.protocol.snapshots import SnapshotFailed, SnapshotRemoved, SnapshotTaken
from leasing import outbox, snapshots
from leasing.locking import locked
from leasing.models import Lease, OutboxMessage
from leasing.reports.subjects import lease_of

_APPLIED, _STALE = "applied", "stale: it was not ordered"


def taken(host: Host, report: m.Report, event: SnapshotTaken, stored: ReceivedReport, now: datetime) -> str:
    locked(Lease.objects.filter(pk=lease_of(host, event.lease_id).pk)).first()
    at = report.occurred_at
    known = snapshots.note_taken(host, event.snapshot_id, event.size_bytes, at=at, now=now)
    return _APPLIED if known else _STALE


def failed(host: Host, report: m.Report, event: SnapshotFailed, stored: ReceivedReport, now: datetime) -> str:
    """What the release itself says is the last word."""
    locked(Lease.objects.filter(pk=lease_of(host, event.lease_id).pk)).first()
    last = report.subject == f"lease:{event.lease_id}"
    known = snapshots.note_failed(
        host, event.snapshot_id, event.reason, finally_=last, at=report.occurred_at, now=now
    )
    return _APPLIED if known else _STALE


def removed(
    host: Host, report: m.Report, event: SnapshotRemoved, stored: ReceivedReport, now: datetime
) -> str:
    outbox.answer_goal(
        subject=report.subject,
        generation=report.generation,
        kinds=("remove-snapshot",),
        answer="removed",
        now=now,
    )
    known = snapshots.note_removed(host, event.snapshot_id, at=report.occurred_at, now=now)
    return _APPLIED if known else _STALE


def note_refusal(host: Host, message: OutboxMessage, why: str, *, at: datetime, now: datetime) -> None:
    """The host has no such machine: the disk cannot be copied."""
    goal = msgspec.json.decode(message.goal, type=m.TakeSnapshot)
    locked(Lease.objects.filter(pk=goal.lease_id)).first()
    snapshots.note_failed(host, goal.snapshot.snapshot_id, why, finally_=False, at=at, now=now)
