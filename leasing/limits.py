"""What a tenant and the people in it may use without asking. Pure.

Nothing here refuses for good: what is outside a limit waits for somebody who may approve it. Only a window
that makes no sense, or that nobody could want, is refused.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.utils.translation import gettext as _

from leasing.errors import InvalidRequest
from leasing.reasons import Reason, because
from leasing.timing import FARTHEST_START, LONGEST_LEASE, PAST_TOLERANCE, SHORTEST_LEASE

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Limit:
    """At most `value`; `kind` says of what, and in which unit, as QuotaKind does.

    It is about the tenant or, with `own`, about the one person; about one GPU model, or all of them.
    """

    kind: str
    value: Decimal
    own: bool = False
    model_id: int | None = None
    model_name: str = ""
    currency: str = ""

    @property
    def name(self) -> str:
        """What it is about, for records."""
        about = [self.kind, self.model_name, "own" if self.own else ""]
        return " ".join(filter(None, about))


@dataclass(frozen=True)
class Use:
    """GPUs of a model that the tenant has, or had, in `[starts_at, ends_at)` at a rate; `own` as above."""

    starts_at: datetime
    ends_at: datetime
    gpus: int
    model_id: int
    own: bool
    rate_per_hour: Decimal
    currency: str


@dataclass(frozen=True)
class MonthUse:
    """What was booked or used in one month, of one kind: seconds are those of leases, not of their GPUs."""

    month: str
    seconds: Decimal
    gpus: int
    model_id: int
    own: bool
    rate_per_hour: Decimal
    currency: str


def check_window(starts_at: datetime, ends_at: datetime, *, now: datetime) -> None:
    """Raise InvalidRequest, naming the field at fault, unless the window may be asked for."""
    if starts_at < now - PAST_TOLERANCE:
        raise InvalidRequest(
            _("The start lies in the past."), hint=_("Choose now or a later time."), field="starts_at"
        )
    if starts_at > now + FARTHEST_START:
        raise InvalidRequest(
            _("Nobody books more than two years ahead."),
            hint=_("Choose an earlier start."),
            field="starts_at",
        )
    if ends_at <= starts_at:
        raise InvalidRequest(
            _("The end must be after the start."), hint=_("Choose a later end."), field="ends_at"
        )
    if ends_at - starts_at < SHORTEST_LEASE:
        raise InvalidRequest(
            _("The shortest lease is one minute."), hint=_("Choose a later end."), field="ends_at"
        )
    if ends_at - starts_at > LONGEST_LEASE:
        raise InvalidRequest(
            _("The longest lease is a year."),
            hint=_("Choose an earlier end, or book again afterwards."),
            field="ends_at",
        )


def exceeded(
    limits: Iterable[Limit], *, wanted: Use, uses: list[Use], months: list[MonthUse], zone: str, now: datetime
) -> list[Reason]:
    """Every limit that the wanted lease would break; `uses` and `months` are what there is without it.

    `months` may hold other months, `uses` other times.
    """
    found = [_broken(limit, wanted, uses, months, zone, now) for limit in limits if _is_about(limit, wanted)]
    return [reason for reason in found if reason]


def peak_gpus(uses: Iterable[Use], *, within: Use) -> int:
    """The most GPUs at any one moment of `within`, which counts itself."""
    inside = [use for use in uses if use.starts_at < within.ends_at and use.ends_at > within.starts_at]
    edges = sorted(
        edge
        for use in [*inside, within]
        for edge in (
            (max(use.starts_at, within.starts_at), use.gpus),
            (min(use.ends_at, within.ends_at), -use.gpus),
        )
    )
    peak = current = 0
    for _at, change in edges:
        current += change
        peak = max(peak, current)
    return peak


def month_total(limit: Limit, months: Iterable[MonthUse]) -> Decimal:
    """What counts against a monthly limit, in its unit."""
    return sum((_amount(limit, use) for use in months if _counts(limit, use)), Decimal(0))


def month_spans(
    starts_at: datetime, ends_at: datetime, zone: str
) -> Iterator[tuple[str, datetime, datetime]]:
    """The calendar months of a zone that `[starts_at, ends_at)` lies in, whole, as (name, start, end)."""
    local = starts_at.astimezone(zoneinfo.ZoneInfo(zone))
    begin = local.replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0)
    while begin < ends_at:
        following = (begin + timedelta(days=32)).replace(day=1)
        yield begin.strftime("%Y-%m"), begin.astimezone(UTC), following.astimezone(UTC)
        begin = following


def _is_about(limit: Limit, wanted: Use) -> bool:
    return limit.model_id in (None, wanted.model_id)


def _broken(
    limit: Limit, wanted: Use, uses: list[Use], months: list[MonthUse], zone: str, now: datetime
) -> Reason | None:
    match limit.kind:
        case "longest":
            hours = (wanted.ends_at - wanted.starts_at) / HOUR
            return because("too-long", limit=_plain(limit.value)) if hours > limit.value else None
        case "ahead":
            days = (wanted.starts_at - now) / timedelta(days=1)
            return because("too-far-ahead", limit=_plain(limit.value)) if days > limit.value else None
        case "gpus":
            peak = peak_gpus((use for use in uses if _counts(limit, use)), within=wanted)
            return _over("over-limit", limit, peak=peak) if peak > limit.value else None
        case "gpu-hours" | "budget":
            return _over_month(limit, wanted, months, zone)
    raise ValueError(f"no limit is called {limit.kind}")


def _over_month(limit: Limit, wanted: Use, months: list[MonthUse], zone: str) -> Reason | None:
    if limit.kind == "budget" and limit.currency != wanted.currency:
        return because("other-currency", currency=wanted.currency, limit=limit.currency)
    for month, begin, end in month_spans(wanted.starts_at, wanted.ends_at, zone):
        span = min(wanted.ends_at, end) - max(wanted.starts_at, begin)
        asked = MonthUse(
            month,
            _seconds(span),
            wanted.gpus,
            wanted.model_id,
            wanted.own,
            wanted.rate_per_hour,
            wanted.currency,
        )
        total = month_total(limit, [use for use in months if use.month == month]) + _amount(limit, asked)
        if total > limit.value:
            code = "over-budget" if limit.kind == "budget" else "over-gpu-hours"
            return _over(code, limit, month=month, total=f"{total:.2f}", currency=limit.currency)
    return None


def _amount(limit: Limit, use: MonthUse) -> Decimal:
    """In GPU-hours, or in money of the limit's currency."""
    if limit.kind == "gpu-hours":
        return use.seconds * use.gpus / 3600
    return use.seconds * use.rate_per_hour / 3600 if use.currency == limit.currency else Decimal(0)


def _counts(limit: Limit, use: Use | MonthUse) -> bool:
    return (use.own or not limit.own) and limit.model_id in (None, use.model_id)


def _over(code: str, limit: Limit, **facts: str | int) -> Reason:
    whose = "own-" if limit.own else ""
    return because(f"{whose}{code}", what=limit.model_name or "GPU", limit=_plain(limit.value), **facts)


def _seconds(span: timedelta) -> Decimal:
    return Decimal(span // timedelta(microseconds=1)) / 1_000_000


def _plain(value: Decimal) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
