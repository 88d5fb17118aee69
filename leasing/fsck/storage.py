"""Check of what is billed for home volumes, against what the audit log says of them and of prices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from leasing.fsck.finding import Finding
from leasing.fsck.history import Act, acts
from leasing.fsck.retelling import moment
from leasing.models import HomeVolume, UsageSegment
from leasing.storing import StoragePrice, Stored, due_storage

# The tick has this long to notice that a month is over, or that another price has begun.
NOTICED_WITHIN = timedelta(minutes=5)


def storage_is_what_was_kept(now: datetime) -> Iterator[Finding]:
    """Usage segments cover exactly the time for which each home volume was kept, at the price of that time"""
    billed: dict[UUID, set[Stored]] = defaultdict(set)
    columns = ("volume_id", "starts_at", "ends_at", "rate_per_hour", "currency")
    for volume_id, *line in UsageSegment.objects.filter(lease=None).values_list(*columns):
        billed[volume_id].add(Stored(*line))
    prices = [price_told(act) for act in acts("storage-rate.")]
    made, removed = (
        {act.subject_id: act.effective_at for act in acts(f"home.{event}")} for event in ("made", "remove")
    )
    for volume in HomeVolume.objects.select_related("tenant"):
        since = made.get(str(volume.pk))
        facts: dict[str, Any] = {"gib": volume.size_gib, "prices": prices, "zone": volume.tenant.timezone}
        until = removed.get(str(volume.pk))
        expected = [
            set(due_storage(since, until, **facts, now=at)) if since else set()
            for at in (now, now - NOTICED_WITHIN)
        ]
        if billed[volume.pk] not in expected:
            yield from _differences(volume, expected[0], billed[volume.pk])


def price_told(act: Act) -> StoragePrice:
    """What an entry says that storage costs from a time on."""
    after = act.detail["after"]
    return StoragePrice(moment(after["valid_from"]), Decimal(after["per_gib_month"]), after["currency"])


def _differences(volume: HomeVolume, expected: set[Stored], billed: set[Stored]) -> Iterator[Finding]:
    for line in expected - billed:
        yield Finding(f"home:{volume.pk}", f"its {_describe(line)} is not recorded")
    for line in billed - expected:
        yield Finding(f"home:{volume.pk}", f"a recorded {_describe(line)} did not happen")


def _describe(line: Stored) -> str:
    return f"time from {line.starts_at} to {line.ends_at or 'now'} at {line.rate_per_hour} {line.currency}"
