"""The columns of a file: what each is called, of what kind it is, and how it is taken from a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from leasing.exports.lines import UsageLine

Cell = str | int | Decimal | datetime | UUID | None
Kind = Literal["text", "integer", "decimal", "moment"]
# Spreadsheets take cells that begin with these for formulas.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Column:
    """`places` are those after the decimal point; `digits` all that there may be."""

    name: str
    kind: Kind
    take: Callable[[UsageLine], Cell]
    digits: int = 16
    places: int = 2


def neutral(text: str) -> str:
    """Text that no spreadsheet takes for a formula, on one line."""
    text = f"'{text}" if text.startswith(FORMULA_STARTS) else text
    return text.replace("\r", " ")


def cause_of(line: UsageLine) -> str:
    return line.cause + (" (open)" if line.is_open else " (credit)" if line.is_credit else "")


USAGE = (
    Column("lease", "text", lambda line: str(line.lease) if line.lease else None),
    Column("tenant", "text", lambda line: line.tenant),
    Column("person", "text", lambda line: line.person),
    Column("flavor", "text", lambda line: line.flavor),
    Column("gpus", "integer", lambda line: line.gpus),
    Column("gpu_model", "text", lambda line: line.model_name),
    Column("starts_at", "moment", lambda line: line.starts_at),
    Column("ends_at", "moment", lambda line: line.ends_at),
    Column("seconds", "integer", lambda line: line.seconds),
    Column("rate_per_hour", "decimal", lambda line: line.rate_per_hour, digits=12, places=4),
    Column("currency", "text", lambda line: line.currency),
    Column("cause", "text", cause_of),
    Column("amount", "decimal", lambda line: line.amount),
    Column("project", "text", lambda line: line.project),
    Column("cost_centre", "text", lambda line: line.cost_centre),
    Column("invoice", "text", lambda line: line.invoice),
    Column("kept", "text", lambda line: str(line.kept) if line.kept else None),
)
