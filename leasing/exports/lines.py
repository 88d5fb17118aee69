"""Lines of usage as the database counts them, in whole numbers, by the rules of leasing.metering.

That both come to the same is tested with random lines, on PostgreSQL and on SQLite.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Case, CharField, Expression, QuerySet, Value, When
from django.db.models.functions import Coalesce

from leasing.exports.filter import Billed
from leasing.models import UsageSegment
from leasing.statements import Columns, fields_of, stream_rows
from leasing.terms import WHOLE_CURRENCIES

HOME, SNAPSHOT = "home-volume", "snapshot"
# No model is called so: slugs have no parentheses.
NO_MODEL = "(storage)"
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
# A rate has four decimals, and an hour 3600 seconds: how many of seconds × rate × 10 000 make a hundredth.
PER_HUNDREDTH = 360_000
PER_WHOLE = PER_HUNDREDTH * 100

Taken = str | Expression
_WHICH = (When(volume__isnull=False, then=Value(HOME)), When(snapshot__isnull=False, then=Value(SNAPSHOT)))
_WHICH_NAME = (
    When(volume__isnull=False, then=Value("Home volume")),
    When(snapshot__isnull=False, then=Value("Snapshot")),
)
# What lines know, by the names that the statement gives it, and where segments and credits have it.
_SAME: dict[str, Taken] = {
    "lease": "lease_id",
    # What is kept has neither flavor nor GPUs.
    "gpus": Coalesce("lease__flavor__gpu_count", 0),
    "model": Coalesce("lease__flavor__model__slug", Value(NO_MODEL)),
    "model_name": Coalesce("lease__flavor__model__name", Value("Storage")),
    "starts_at": "starts_at",
    "closed_at": "ends_at",
    "rate": "rate_per_hour",
    "cause": "cause",
}
OF_SEGMENTS: dict[str, Taken] = _SAME | {
    "line": "pk",
    "kept": Coalesce("volume_id", "snapshot_id"),
    "gib": "gib",
    "flavor": Case(*_WHICH, default="lease__flavor__slug", output_field=CharField()),
    "flavor_name": Case(*_WHICH_NAME, default="lease__flavor__name"),
    "tenant": "tenant__slug",
    "tenant_name": "tenant__name",
    "zone": "tenant__timezone",
    "person": "person__username",
    "lease_ends_at": Coalesce("lease__ends_at", Value(NEVER)),
    "currency": "currency",
    "project": Coalesce("line__project", "lease__project", Value("")),
    "cost_centre": Coalesce("line__cost_centre", "lease__cost_centre", Value("")),
    "invoice": "line__invoice__number",
}
_OF_CREDITS: dict[str, Taken] = _SAME | {
    "line": "corrects__segment_id",
    "kept": Coalesce("corrects__segment__volume_id", "corrects__segment__snapshot_id"),
    "gib": "corrects__segment__gib",
    "flavor": "lease__flavor__slug",
    "flavor_name": "lease__flavor__name",
    "tenant": "invoice__tenant__slug",
    "tenant_name": "invoice__tenant__name",
    "zone": "invoice__tenant__timezone",
    "person": "corrects__segment__person__username",
    "currency": "invoice__currency",
    "project": "project",
    "cost_centre": "cost_centre",
    "invoice": "invoice__number",
    "seconds": "seconds",
    "amount": "amount",
}


class UsageLine(NamedTuple):
    """A segment as it is billed, or, if `is_open`, would be if it ended now; or what is credited of one.

    It is of a lease, or of what is kept and takes so many `gib`: a home volume or a snapshot, as `flavor`
    says. `line` is the segment's number. Seconds and amount of a credit are negative. `invoice` is a
    number.
    """

    line: int
    lease: UUID | None
    kept: UUID | None
    gib: int
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
    is_credit: bool
    seconds: int
    rate_per_hour: Decimal
    currency: str
    cause: str
    project: str
    cost_centre: str
    invoice: str | None
    amount: Decimal

    @property
    def machine_name(self) -> str:
        if self.lease is not None:
            return f"ws-{self.lease.hex[:8]}"
        kind = "snapshot" if self.flavor == SNAPSHOT else "home"
        return f"{kind}-{self.kept.hex[:8]}" if self.kept else ""


Statement = tuple[str, tuple[Any, ...]]
_CURRENCY = UsageLine._fields.index("currency")
_FLAGS = ("is_open", "is_credit")
_SHARED = (
    "line, lease, kept, gib, tenant, tenant_name, zone, person, flavor, flavor_name, gpus, model,"
    " model_name, starts_at, rate, currency, cause, project, cost_centre, invoice"
)
_READ = (
    "line, lease, kept, gib, tenant, tenant_name, zone, person, flavor, flavor_name, gpus, model,"
    " model_name, starts_at, ends_at, is_open, is_credit, seconds, rate, currency, cause, project,"
    " cost_centre, invoice, minor"
)
ORDER = "ORDER BY starts_at, line, is_credit"


def counted(billed: Billed, *, now: datetime) -> Statement:
    """The beginning of a statement: `WITH … counted AS (…)`, to which a SELECT is to be added."""
    segments, of_segments = _taken(billed.segments, OF_SEGMENTS)
    credits_, of_credits = _taken(billed.credits, _OF_CREDITS)
    until, seconds = _clock()
    statement = (
        f"WITH found({', '.join(OF_SEGMENTS)}) AS ({segments}),"
        f" timed AS (SELECT found.*, {until} AS ends_at FROM found),"
        f" lasting AS (SELECT timed.*, {seconds} AS seconds, {_UNIT} AS unit FROM timed),"
        f" credited({', '.join(_OF_CREDITS)}) AS ({credits_}),"
        f" counted AS (SELECT {_SHARED}, ends_at, seconds, unit, closed_at IS NULL AS is_open,"
        f" FALSE AS is_credit, {minor_units('seconds')} AS minor FROM lasting"
        f" UNION ALL SELECT {_SHARED}, closed_at, seconds, {_UNIT}, FALSE, TRUE,"
        f" CAST(ROUND(amount * {PER_WHOLE} / {_UNIT}) AS BIGINT) FROM credited)"
    )
    moment = connection.ops.adapt_datetimefield_value(now)
    return statement, (*of_segments, moment, *of_credits)


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


def read_lines(
    billed: Billed, *, now: datetime, skip: int = 0, most: int | None = None
) -> Iterator[UsageLine]:
    """In the order of their start, a few at a time, however many there are."""
    statement, parameters = counted(billed, now=now)
    lease, kept, starts_at, rate = fields_of(UsageSegment, "lease", "volume", "starts_at", "rate_per_hour")
    converted = {
        "lease": lease,
        "kept": kept,
        "starts_at": starts_at,
        "ends_at": starts_at,
        "rate_per_hour": rate,
    }
    columns = Columns(*(converted.get(name) for name in UsageLine._fields))
    page = f" LIMIT {int(most)} OFFSET {int(skip)}" if most is not None else ""
    rows = stream_rows(f"{statement} SELECT {_READ} FROM counted {ORDER}{page}", parameters, columns)
    for *told, minor in rows:
        line = UsageLine._make((*told, amount_of(minor, told[_CURRENCY])))
        yield line._replace(is_open=bool(line.is_open), is_credit=bool(line.is_credit))


def amount_of(minor: int, currency: str) -> Decimal:
    """An amount in the currency from its smallest unit."""
    return Decimal(minor) if currency in WHOLE_CURRENCIES else Decimal(minor).scaleb(-2)


_WHOLE = ", ".join(f"'{currency}'" for currency in sorted(WHOLE_CURRENCIES))
_UNIT = f"CASE WHEN currency IN ({_WHOLE}) THEN {PER_WHOLE} ELSE {PER_HUNDREDTH} END"


def _taken(rows: QuerySet[Any], fields: dict[str, Taken]) -> Statement:
    query = rows.order_by().values_list(*fields.values()).query
    statement, parameters = query.get_compiler(connection.alias).as_sql()
    return statement, tuple(parameters)


def _clock() -> tuple[str, str]:
    """Up to where a line counts, and how many seconds that are (leasing.metering.billed_until)."""
    until = greatest("starts_at", least("%s", "COALESCE(closed_at, lease_ends_at)"))
    return until, greatest("0", f"{whole_seconds('ends_at')} - {whole_seconds('starts_at')}")
