"""Sums of usage over time: what a day, a month or a team had, so that the parts add up to the lines exactly.

A line's cost up to a moment is rounded as the line is; what falls between two moments is the difference. So
the parts of a line always make the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Literal

from django.db import connection

from leasing.exports.filter import Billed
from leasing.exports.lines import amount_of, counted, greatest, least, minor_units, whole_seconds

By = Literal["tenant", "person", "model"]
# The key by which lines are told apart, and what it is called.
_GROUPS: dict[By, tuple[str, str]] = {
    "tenant": ("tenant", "tenant_name"),
    "person": ("person", "person"),
    "model": ("model", "model_name"),
}


@dataclass(frozen=True)
class Sum:
    """What `key` had in the span with that number; seconds of GPUs, and money in the currency."""

    span: int
    key: str
    name: str
    currency: str
    gpu_seconds: int
    amount: Decimal


@dataclass(frozen=True)
class Total:
    """Of whole lines in one currency."""

    currency: str
    lines: int
    gpu_seconds: int
    amount: Decimal


def totals(billed: Billed, *, now: datetime) -> list[Total]:
    statement, parameters = counted(billed, now=now)
    with connection.cursor() as cursor:
        cursor.execute(
            f"{statement} SELECT currency, COUNT(*), SUM(gpus * seconds), SUM(minor)"
            " FROM counted GROUP BY currency ORDER BY currency",
            parameters,
        )
        rows = cursor.fetchall()
    return [
        Total(currency, lines, int(seconds), amount_of(int(minor), currency))
        for currency, lines, seconds, minor in rows
    ]


def sums(billed: Billed, edges: Sequence[datetime], *, by: By, now: datetime) -> list[Sum]:
    """What falls between each two neighbouring edges, by span and then by key."""
    statement, parameters = counted(billed, now=now)
    key, name = _GROUPS[by]
    is_postgres = connection.vendor == "postgresql"
    moment = "CAST(%s AS TIMESTAMP WITH TIME ZONE)" if is_postgres else "%s"
    values = ", ".join([f"(%s, {moment}, {moment})".replace("%s", "{}", 1)] * (len(edges) - 1))
    spans = values.format(*range(len(edges) - 1))
    bounds = [connection.ops.adapt_datetimefield_value(edge) for pair in pairwise(edges) for edge in pair]
    start = whole_seconds("starts_at")
    whole = greatest("1", f"{whole_seconds('ends_at')} - {start}")
    first, last = whole_seconds(greatest("begins", "starts_at")), whole_seconds(least("finishes", "ends_at"))
    query = (
        f"{statement}, spans(number, begins, finishes) AS (VALUES {spans}),"
        f" cut AS (SELECT number, {key} AS key, {name} AS name, currency, gpus, rate, unit, is_credit, minor,"
        f" seconds, {whole} AS whole,"
        f" {first} - {start} AS before, {greatest('0', f'{last} - {start}')} AS upto"
        " FROM counted JOIN spans ON starts_at < finishes AND ends_at > begins)"
        f" SELECT number, key, name, currency, SUM(gpus * ({_time('upto')} - {_time('before')})),"
        f" SUM({_cost('upto')} - ({_cost('before')}))"
        " FROM cut GROUP BY number, key, name, currency ORDER BY number, key, currency"
    )
    with connection.cursor() as cursor:
        cursor.execute(query, (*parameters, *bounds))
        rows = cursor.fetchall()
    return [
        Sum(number, key, name, currency, int(seconds), amount_of(int(minor), currency))
        for number, key, name, currency, seconds, minor in rows
    ]


def _cost(seconds: str) -> str:
    """What falls on the first so many seconds of a line; of a credit, a part in proportion."""
    return f"CASE WHEN is_credit THEN minor * {seconds} / whole ELSE {minor_units(seconds)} END"


def _time(seconds: str) -> str:
    return f"CASE WHEN is_credit THEN seconds * {seconds} / whole ELSE {seconds} END"
