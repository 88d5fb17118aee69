"""What was used and what it costs: one lease's total, and the export that finance downloads."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal

from django.db.models import QuerySet

from leasing.metering import billed_seconds, billed_until, lease_amount, segment_amount
from leasing.models import Lease, UsageSegment

COLUMNS = (
    "lease",
    "tenant",
    "person",
    "flavor",
    "gpus",
    "gpu_model",
    "starts_at",
    "ends_at",
    "seconds",
    "rate_per_hour",
    "currency",
    "cause",
    "amount",
)
# Spreadsheets take cells that begin with these for formulas.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def lease_cost(lease: Lease, *, now: datetime) -> Decimal:
    """What the lease costs, up to `now` if it still runs, in its currency."""
    return lease_amount(lease.segments.all(), now)


def usage_csv(segments: QuerySet[UsageSegment], *, now: datetime) -> Iterator[str]:
    """Lines of CSV, one per segment, times in UTC. An open segment counts up to `now` and says so."""
    line = _Line()
    writer = csv.writer(line)
    writer.writerow(COLUMNS)
    yield line.text
    rows = segments.select_related("lease__tenant", "lease__owner", "lease__flavor__model")
    for segment in rows.iterator(chunk_size=2000):
        writer.writerow(_cells(segment, now))
        yield line.text


class _Line:
    """The file that csv.writer needs: it keeps the last line only."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text


def _cells(segment: UsageSegment, now: datetime) -> Iterable[object]:
    lease = segment.lease
    return (
        lease.pk,
        _neutral(lease.tenant.slug),
        _neutral(lease.owner.username),
        _neutral(lease.flavor.slug),
        lease.flavor.gpu_count,
        _neutral(lease.flavor.model.name),
        _moment(segment.starts_at),
        _moment(billed_until(segment, now)),
        billed_seconds(segment, now),
        segment.rate_per_hour,
        segment.currency,
        segment.cause if segment.ends_at else f"{segment.cause} (open)",
        segment_amount(segment, now),
    )


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _neutral(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
