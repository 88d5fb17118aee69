"""What is billed for what people keep: the rules, and the one function that makes its segments follow them.

A home volume is billed from when a machine first ran with it, a snapshot from when it was taken, each until
its removal is ordered, at the rate in force at each time: nobody books how long they keep something, so there
is no price to be frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import zip_longest
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet

from leasing.billing.months import month_of
from leasing.locking import locked
from leasing.models import HomeVolume, Snapshot, StorageRate, Tenant, UsageSegment
from leasing.terms import RATE_UNIT, line_amount, month_cuts
from leasing.transactions import atomically

Kept = HomeVolume | Snapshot
# How a segment calls it, and since when it is billed.
_NAMES: dict[type[Kept], str] = {HomeVolume: "volume", Snapshot: "snapshot"}
_SINCE: dict[type[Kept], str] = {HomeVolume: "made_at", Snapshot: "taken_at"}
# A year has 8,760 hours.
HOURS_A_MONTH = 730


class StoragePrice(NamedTuple):
    """What a GiB costs a month, from a time on."""

    since: datetime
    per_gib_month: Decimal
    currency: str


class Stored(NamedTuple):
    """A span in which a volume is billed at one rate; the last one is open while the volume is kept."""

    starts_at: datetime
    ends_at: datetime | None
    rate_per_hour: Decimal
    currency: str


def hourly(per_gib_month: Decimal, gib: int) -> Decimal:
    """What so many GiB cost an hour, to a ten-thousandth: the rate that is shown and billed."""
    return (per_gib_month * gib / HOURS_A_MONTH).quantize(RATE_UNIT, ROUND_HALF_EVEN)


def monthly(per_gib_month: Decimal, gib: int, currency: str) -> Decimal:
    """What so many GiB cost in a month of 730 hours, as it is billed."""
    hours = hourly(per_gib_month, gib)
    return line_amount(seconds=HOURS_A_MONTH * 3600, rate_per_hour=hours, currency=currency)


def due_storage(
    since: datetime,
    until: datetime | None,
    *,
    gib: int,
    prices: Sequence[StoragePrice],
    zone: str,
    now: datetime,
) -> Iterator[Stored]:
    """What is due for a volume: cut where a price begins, and at each month of the zone that is over.

    What there is no price for is free, and no line. Without an `until` it is still kept.
    """
    end = until or now
    cuts = {
        at for at in (*(price.since for price in prices), *month_cuts(since, end, zone)) if since < at < end
    }
    edges = sorted({since, *cuts})
    for starts_at, ends_at in zip_longest(edges, edges[1:], fillvalue=until):
        assert starts_at is not None  # noqa: S101 - only ends are filled up
        known = [price for price in prices if price.since <= starts_at]
        if known and starts_at != ends_at:
            price = max(known)
            yield Stored(starts_at, ends_at, hourly(price.per_gib_month, gib), price.currency)


def storage_price(*, at: datetime) -> StoragePrice | None:
    """The price in force; None if what is kept is free."""
    return next(
        iter(_prices(StorageRate.objects.filter(valid_from__lte=at).order_by("-valid_from")[:1])), None
    )


def due_of(kept: Kept, *, now: datetime) -> list[Stored]:
    """What is due for something as it is."""
    if kept.billed_since is None:
        return []
    known = due_storage(
        kept.billed_since,
        kept.kept_until,
        gib=kept.billed_gib,
        prices=_prices(StorageRate.objects.filter(valid_from__lte=now)),
        zone=kept.tenant.timezone,
        now=now,
    )
    return list(known)


def follow_kept(kept: Kept, *, now: datetime) -> None:
    """The segments of something that is locked become what is due; those on an invoice stay as they are."""
    what = {_NAMES[type(kept)]: kept}
    known = UsageSegment.objects.filter(**what)
    frozen = set(known.exclude(line=None).values_list("starts_at", flat=True))
    wanted = {one for one in due_of(kept, now=now) if one.starts_at not in frozen}
    for one in known.filter(line=None):
        told = Stored(one.starts_at, one.ends_at, one.rate_per_hour, one.currency)
        if told in wanted:
            wanted.remove(told)
        else:
            one.delete()
    UsageSegment.objects.bulk_create(
        UsageSegment(
            **what,
            tenant_id=kept.tenant_id,
            person_id=kept.person_id,
            gib=kept.billed_gib,
            cause=UsageSegment.Cause.STORED,
            **one._asdict(),
        )
        for one in sorted(wanted)
    )


def follow_all_kept(tenant: Tenant, *, now: datetime) -> None:
    """All that a tenant keeps or has kept, which is locked."""
    for model, since in _SINCE.items():
        rows = _rows(model).filter(tenant=tenant, **{f"{since}__isnull": False})
        for kept in locked(rows.select_related("tenant")).order_by("pk"):
            follow_kept(kept, now=now)


def outdated(now: datetime) -> list[tuple[type[Kept], UUID]]:
    """What is kept and whose segments do not know yet that a month is over, or that a price has begun."""
    newest = storage_price(at=now)
    if newest is None:
        return []
    return [(model, pk) for model in _SINCE for pk in _outdated(model, newest.since, now)]


def _outdated(model: type[Kept], price_since: datetime, now: datetime) -> Iterable[UUID]:
    running = UsageSegment.objects.filter(
        **{_NAMES[model]: OuterRef("pk")}, ends_at=None, starts_at__gte=price_since
    )
    kept = _rows(model).filter(kept_until=None, **{f"{_SINCE[model]}__isnull": False})
    late = Q(pk=None)
    for zone in kept.order_by().values_list("tenant__timezone", flat=True).distinct():
        begun = running.filter(starts_at__gte=month_of(now, zone).starts_at)
        late |= Q(~Exists(begun), tenant__timezone=zone)
    return list(kept.filter(late).values_list("pk", flat=True))


@atomically
def catch_up(model: type[Kept], pk: UUID, *, now: datetime) -> None:
    follow_kept(locked(_rows(model).filter(pk=pk).select_related("tenant")).get(), now=now)


def _rows(model: type[Kept]) -> QuerySet[Any]:
    return model.objects.all()


def _prices(rates: Iterable[StorageRate]) -> list[StoragePrice]:
    return [StoragePrice(one.valid_from, one.per_gib_month, one.currency) for one in rates]
