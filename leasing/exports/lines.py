"""Lines of usage as the database counts them, in whole numbers, by the rules of leasing.metering.

That both come to the same is tested with random lines, on PostgreSQL and on SQLite.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from leasing.models import UsageSegment
from leasing.statements import fields_of, stream_rows
from leasing.terms import WHOLE_CURRENCIES

# A rate has four decimals, and an hour 3600 seconds: how many of seconds × rate × 10 000 make a hundredth.
PER_HUNDREDTH = 360_000
PER_WHOLE = PER_HUNDREDTH * 100

# What a line knows, by the names that the statement gives it.
FIELDS = {
    "line": "pk",
    "lease": "lease_id",
    "tenant": "lease__tenant__slug",
    "tenant_name": "lease__tenant__name",
    "zone": "lease__tenant__timezone",
    "person": "lease__owner__username",
    "flavor": "lease__flavor__slug",
    "flavor_name": "lease__flavor__name",
    "gpus": "lease__flavor__gpu_count",
    "model": "lease__flavor__model__slug",
    "model_name": "lease__flavor__model__name",
    "starts_at": "starts_at",
    "closed_at": "ends_at",
    "lease_ends_at": "lease__ends_at",
    "rate": "rate_per_hour",
    "currency": "currency",
    "cause": "cause",
}


class UsageLine(NamedTuple):
    """One segment as it is billed, or, if `is_open`, would be if it ended now."""

    line: int
    lease: UUID
    tenant: str
    tenant_name: str
    zone: str
    person: str
    flavor: str
    flavor_name: str
    gpus: int
    model: str
    model_name: str
    starts_at: datetime
    ends_at: datetime
    is_open: bool
    seconds: int
    rate_per_hour: Decimal
    currency: str
    cause: str
    amount: Decimal


CURRENCY = UsageLine._fields.index("currency")
Statement = tuple[str, tuple[Any, ...]]
_READ = (
    "line, lease, tenant, tenant_name, zone, person, flavor, flavor_name, gpus, model, model_name, starts_at,"
    " ends_at, closed_at IS NULL, seconds, rate, currency, cause, minor"
)


def counted(segments: QuerySet[UsageSegment], *, now: datetime) -> Statement:
    """The beginning of a statement: `WITH … counted AS (…)`, to which a SELECT is to be added."""
    compiler = segments.order_by().values_list(*FIELDS.values()).query.get_compiler(connection.alias)
    inner, parameters = compiler.as_sql()
    until, seconds = _clock()
    whole = ", ".join(f"'{currency}'" for currency in sorted(WHOLE_CURRENCIES))
    statement = (
        f"WITH found({', '.join(FIELDS)}) AS ({inner}),"
        f" timed AS (SELECT found.*, {until} AS ends_at FROM found),"
        f" lasting AS (SELECT timed.*, {seconds} AS seconds,"
        f" CASE WHEN currency IN ({whole}) THEN {PER_WHOLE} ELSE {PER_HUNDREDTH} END AS unit FROM timed),"
        f" counted AS (SELECT lasting.*, {minor_units('seconds')} AS minor FROM lasting)"
    )
    moment = connection.ops.adapt_datetimefield_value(now)
    return statement, (*parameters, moment)


def minor_units(seconds: str) -> str:
    """What so many seconds cost, in the currency's smallest unit, rounded half to even."""
    product = f"(({seconds}) * CAST(ROUND(rate * 10000) AS BIGINT))"
    whole, rest = f"({product} / unit)", f"(2 * ({product} %% unit))"
    return f"{whole} + CASE WHEN {rest} > unit OR ({rest} = unit AND {whole} %% 2 = 1) THEN 1 ELSE 0 END"


def whole_seconds(moment: str) -> str:
    """The second in which a moment lies, counted since 1970."""
    if connection.vendor == "postgresql":
        return f"CAST(FLOOR(DATE_PART('epoch', {moment})) AS BIGINT)"
    return f"CAST(STRFTIME('%%s', SUBSTR({moment}, 1, 19)) AS BIGINT)"


def least(*parts: str) -> str:
    return f"{'LEAST' if connection.vendor == 'postgresql' else 'MIN'}({', '.join(parts)})"


def greatest(*parts: str) -> str:
    return f"{'GREATEST' if connection.vendor == 'postgresql' else 'MAX'}({', '.join(parts)})"


def read_lines(segments: QuerySet[UsageSegment], *, now: datetime) -> Iterator[UsageLine]:
    """In the order of their start, a few at a time, however many there are."""
    statement, parameters = counted(segments, now=now)
    lease, starts_at, rate = fields_of(UsageSegment, "lease", "starts_at", "rate_per_hour")
    columns = (
        *(None, lease),
        *(None,) * 9,
        *(starts_at, starts_at, None, None, rate),
        *(None,) * 3,
    )
    rows = stream_rows(
        f"{statement} SELECT {_READ} FROM counted ORDER BY starts_at, line", parameters, columns
    )
    for *told, minor in rows:
        currency = told[CURRENCY]
        line = UsageLine._make((*told, amount_of(minor, currency)))
        yield line if connection.vendor == "postgresql" else line._replace(is_open=bool(line.is_open))


def amount_of(minor: int, currency: str) -> Decimal:
    """An amount in the currency from its smallest unit."""
    return Decimal(minor) if currency in WHOLE_CURRENCIES else Decimal(minor).scaleb(-2)


def _clock() -> tuple[str, str]:
    """Up to where a line counts, and how many seconds that are (leasing.metering.billed_until)."""
    until = greatest("starts_at", least("%s", "COALESCE(closed_at, lease_ends_at)"))
    return until, greatest("0", f"{whole_seconds('ends_at')} - {whole_seconds('starts_at')}")
