"""What a tenant and the people in it may use without asking. Pure.

Nothing here refuses for good: what is outside a limit waits for somebody who may approve it. Only a window
that makes no sense, or that nobody could want, is refused.
"""

from __future__ import annotations

import zoneinfo
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.utils.translation import gettext as _

from leasing.errors import InvalidRequest
from leasing.reasons import Reason, because
from leasing.terms import Term
from leasing.timing import FARTHEST_START, LONGEST_LEASE, PAST_TOLERANCE, SHORTEST_LEASE

HOUR, DAY = 3600, 86400  # seconds
WARN, REFUSE = "warn", "refuse"
MILLIONTH = Decimal("0.000001")


@dataclass(frozen=True)
class Limit:
    """At most `value`; `kind` says of what, and in which unit, as QuotaKind does.

    It is about the tenant or, with `own`, about the one person; about one GPU model, or all of them. A `rule`
    says what becomes of what is beyond it, as BudgetRule does; without one it waits for an approver. It is in
    force `until` then, or for good.
    """

    kind: str
    value: Decimal
    own: bool = False
    model_id: int | None = None
    model_slug: str = ""
    model_name: str = ""
    currency: str = ""
    rule: str = ""
    until: datetime | None = None

    @property
    def name(self) -> str:
        """What it is about, for records."""
        about = [self.kind, self.model_slug, "own" if self.own else ""]
        return " ".join(filter(None, about))


@dataclass(frozen=True)
class Use:
    """GPUs of a model that the tenant has, or had, in `[starts_at, ends_at)`; `own` as above.

    Its terms are needed only where it counts in its months.
    """

    starts_at: datetime
    ends_at: datetime
    gpus: int
    model_id: int
    own: bool
    terms: tuple[Term, ...] = ()
    currency: str = ""


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


@dataclass(frozen=True)
class Measure:
    """What a lease does to a limit, in its unit: `asked` comes on top of what is `there` without it.

    A monthly limit is measured in each month that the lease lies in. `foreign` is the currency of a lease
    that a budget cannot be compared with.
    """

    limit: Limit
    asked: Decimal
    there: Decimal = Decimal(0)
    month: str = ""
    foreign: str = ""

    @property
    def total(self) -> Decimal:
        """To a millionth: thirds of an hour add up to hours."""
        return (self.there + self.asked).quantize(MILLIONTH)

    @property
    def is_over(self) -> bool:
        return bool(self.foreign) or self.total > self.limit.value

    def objection(self) -> Reason:
        """Why somebody has to agree, if it is over."""
        limit, whose = self.limit, "own-" if self.limit.own else ""
        facts: dict[str, str | int] = {"limit": plain(limit.value)}
        if self.foreign:
            return because("other-currency", currency=self.foreign, limit=limit.currency)
        if limit.kind in ("longest", "ahead"):
            return because("too-long" if limit.kind == "longest" else "too-far-ahead", **facts)
        facts["what"] = limit.model_name or "GPU"
        if limit.kind == "gpus":
            return because(f"{whose}over-limit", peak=int(self.total), **facts)
        facts |= {"month": self.month, "total": f"{self.total:.2f}", "currency": limit.currency}
        return because(f"{whose}over-{'budget' if limit.kind == 'budget' else 'gpu-hours'}", **facts)


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
    if ends_at - max(starts_at, now) < SHORTEST_LEASE:
        raise InvalidRequest(
            _("The shortest lease is one minute."), hint=_("Choose a later end."), field="ends_at"
        )
    if ends_at - starts_at > LONGEST_LEASE:
        raise InvalidRequest(
            _("The longest lease is a year."),
            hint=_("Choose an earlier end, or book again afterwards."),
            field="ends_at",
        )


def measured(
    limits: Iterable[Limit], *, wanted: Use, uses: list[Use], months: list[MonthUse], zone: str, now: datetime
) -> list[Measure]:
    """What the wanted lease does to each limit that is about it; the rest is what there is without it.

    `months` may hold other months, `uses` other times.
    """
    about = [limit for limit in limits if limit.model_id in (None, wanted.model_id)]
    return [one for limit in about for one in _measure(limit, wanted, uses, months, zone, now)]


def objections(measures: Iterable[Measure]) -> list[Reason]:
    """Why somebody has to agree: each limit that would be exceeded, in the first month in which it is."""
    found: dict[Limit, Reason] = {}
    for one in measures:
        if one.is_over and one.limit.rule != WARN:
            found.setdefault(one.limit, one.objection())
    return list(found.values())


def refusals(measures: Iterable[Measure]) -> list[Reason]:
    """Why nobody can agree: what is beyond a limit whose rule is to refuse."""
    return objections(one for one in measures if one.limit.rule == REFUSE)


def longest_unasked(limits: Iterable[Limit], model_id: int) -> timedelta:
    """How long a lease of a model may last without asking."""
    values = [one.value for one in limits if one.kind == "longest" and one.model_id in (None, model_id)]
    return timedelta(hours=float(min([*values, Decimal(LONGEST_LEASE // timedelta(hours=1))])))


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


def gpus_at(moment: datetime, limit: Limit, uses: Iterable[Use]) -> int:
    """What counts against a limit of GPUs at one moment."""
    return sum(use.gpus for use in uses if use.starts_at <= moment < use.ends_at and _counts(limit, use))


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


def exact_seconds(span: timedelta) -> Decimal:
    return Decimal(span // timedelta(microseconds=1)) / 1_000_000


def plain(value: Decimal) -> str:
    """Without zeros after its point."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _measure(
    limit: Limit, wanted: Use, uses: list[Use], months: list[MonthUse], zone: str, now: datetime
) -> Iterator[Measure]:
    match limit.kind:
        case "longest":
            yield Measure(limit, exact_seconds(wanted.ends_at - wanted.starts_at) / HOUR)
        case "ahead":
            yield Measure(limit, max(Decimal(0), exact_seconds(wanted.starts_at - now) / DAY))
        case "gpus":
            peak = peak_gpus((use for use in uses if _counts(limit, use)), within=wanted)
            yield Measure(limit, Decimal(wanted.gpus), Decimal(peak - wanted.gpus))
        case "budget" if limit.currency != wanted.currency:
            yield Measure(limit, Decimal(0), foreign=wanted.currency)
        case "gpu-hours" | "budget":
            asked: dict[str, Decimal] = defaultdict(Decimal)
            for part in month_uses(wanted, zone):
                asked[part.month] += _amount(limit, part)
            for month, amount in asked.items():
                there = month_total(limit, [use for use in months if use.month == month])
                yield Measure(limit, amount, there, month)
        case _:
            raise ValueError(f"no limit is called {limit.kind}")


def month_uses(use: Use, zone: str) -> Iterator[MonthUse]:
    """A use, term by term and month by month."""
    for term in use.terms:
        for month, begin, end in month_spans(term.starts_at, term.ends_at, zone):
            seconds = exact_seconds(min(term.ends_at, end) - max(term.starts_at, begin))
            yield MonthUse(month, seconds, use.gpus, use.model_id, use.own, term.rate_per_hour, use.currency)


def _amount(limit: Limit, use: MonthUse) -> Decimal:
    """In GPU-hours, or in money of the limit's currency."""
    if limit.kind == "gpu-hours":
        return use.seconds * use.gpus / HOUR
    return use.seconds * use.rate_per_hour / HOUR if use.currency == limit.currency else Decimal(0)


def _counts(limit: Limit, use: Use | MonthUse) -> bool:
    return (use.own or not limit.own) and limit.model_id in (None, use.model_id)
