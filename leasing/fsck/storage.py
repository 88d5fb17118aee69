"""Check of what is billed for what is kept, against what the audit log says of them and of prices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from leasing.fsck.finding import Finding
from leasing.fsck.history import Act, acts
from leasing.fsck.retelling import moment
from leasing.models import Tenant, UsageSegment
from leasing.storing import StoragePrice, Stored, due_storage

# The tick has this long to notice that a month is over, or that another price has begun.
NOTICED_WITHIN = timedelta(minutes=5)


def storage_is_what_was_kept(now: datetime) -> Iterator[Finding]:
    """Usage segments cover exactly the time for which things were kept, at the price of that time"""
    billed: dict[UUID, set[Stored]] = defaultdict(set)
    columns = ("volume_id", "snapshot_id", "starts_at", "ends_at", "rate_per_hour", "currency")
    for volume_id, snapshot_id, *line in UsageSegment.objects.filter(lease=None).values_list(*columns):
        billed[volume_id or snapshot_id].add(Stored(*line))
    prices = [price_told(act) for act in acts("storage-rate.")]
    zones = dict(Tenant.objects.values_list("slug", "timezone"))
    told = kept_told(acts("home.", "snapshot."))
    for kept in told.values():
        expected = [set(kept.due(prices, zones[kept.tenant], now=at)) for at in (now, now - NOTICED_WITHIN)]
        if billed[kept.pk] not in expected:
            yield from _differences(kept, expected[0], billed[kept.pk])
    for pk in billed.keys() - {kept.pk for kept in told.values()}:
        yield Finding(f"kept:{pk}", "is billed, and the log knows nothing of it")


@dataclass
class KeptTold:
    """What the log says of a home volume or a snapshot."""

    subject: str
    tenant: str
    gib: int
    since: datetime | None = None
    until: datetime | None = None

    @property
    def pk(self) -> UUID:
        return UUID(self.subject.partition(":")[2])

    def due(self, prices: list[StoragePrice], zone: str, *, now: datetime) -> Iterator[Stored]:
        if self.since is not None:
            yield from due_storage(self.since, self.until, gib=self.gib, prices=prices, zone=zone, now=now)


def kept_told(told: Iterable[Act]) -> dict[str, KeptTold]:
    """By subject."""
    found: dict[str, KeptTold] = {}
    for act in told:
        note_kept(found, act)
    return found


def note_kept(found: dict[str, KeptTold], act: Act) -> None:
    """What an entry adds."""
    match act.event:
        case "create":
            found[act.subject] = KeptTold(act.subject, act.tenant or "", act.detail["size_gib"])
        case "made" | "taken":
            found[act.subject].since = act.effective_at
            if "size_bytes" in act.detail:
                found[act.subject].gib = -(-act.detail["size_bytes"] // 1024**3)
        case "remove":
            found[act.subject].until = act.effective_at


def price_told(act: Act) -> StoragePrice:
    """What an entry says that storage costs from a time on."""
    after = act.detail["after"]
    return StoragePrice(moment(after["valid_from"]), Decimal(after["per_gib_month"]), after["currency"])


def _differences(kept: KeptTold, expected: set[Stored], billed: set[Stored]) -> Iterator[Finding]:
    for line in expected - billed:
        yield Finding(kept.subject, f"its {_describe(line)} is not recorded")
    for line in billed - expected:
        yield Finding(kept.subject, f"a recorded {_describe(line)} did not happen")


def _describe(line: Stored) -> str:
    return f"time from {line.starts_at} to {line.ends_at or 'now'} at {line.rate_per_hour} {line.currency}"
