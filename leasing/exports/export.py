"""An export of usage: which lines, in which form. That it was made is in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest
from leasing.exports import focus
from leasing.exports.columns import USAGE
from leasing.exports.copying import copy_csv
from leasing.exports.filter import Billed, UsageFilter
from leasing.exports.lines import read_lines
from leasing.exports.writers import write_csv, write_parquet, write_xlsx

Pieces = Iterable[str | bytes]
Write = Callable[[Billed, datetime], Pieces]

CSV, PARQUET = "text/csv; charset=utf-8", "application/vnd.apache.parquet"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@dataclass(frozen=True)
class Form:
    """What an export can be. `suffix` is that of its file."""

    label: str | Promise
    suffix: str
    media_type: str
    write: Write


@dataclass(frozen=True)
class Export:
    """A file that is made while it is read, once, by whoever calls `pieces`."""

    name: str
    media_type: str
    pieces: Callable[[], Pieces]


def _csv(billed: Billed, now: datetime) -> Pieces:
    if connection.vendor == "postgresql":
        return copy_csv(billed, now=now)
    return write_csv(USAGE, read_lines(billed, now=now))


FORMS = {
    "csv": Form("CSV", "csv", CSV, _csv),
    "xlsx": Form("Excel", "xlsx", XLSX, lambda found, now: write_xlsx(USAGE, read_lines(found, now=now))),
    "parquet": Form(
        "Parquet", "parquet", PARQUET, lambda found, now: write_parquet(USAGE, read_lines(found, now=now))
    ),
    "focus-csv": Form(
        gettext_lazy("FOCUS 1.2 as CSV"),
        "focus.csv",
        CSV,
        lambda found, now: write_csv(focus.COLUMNS, focus.charges(read_lines(found, now=now))),
    ),
    "focus-parquet": Form(
        gettext_lazy("FOCUS 1.2 as Parquet"),
        "focus.parquet",
        PARQUET,
        lambda found, now: write_parquet(focus.COLUMNS, focus.charges(read_lines(found, now=now))),
    ),
}


def export_usage(*, actor: Actor, billed: Billed, chosen: UsageFilter, form: str, now: datetime) -> Export:
    """The chosen lines of those that the actor may see. Raises InvalidRequest."""
    if form not in FORMS:
        raise InvalidRequest(
            _("“%(form)s” is not a form that exports have.") % {"form": form},
            hint=_("Choose one of: %(forms)s.") % {"forms": ", ".join(FORMS)},
            field="form",
        )
    found, made = chosen.of(billed), FORMS[form]
    told: dict[str, Any] = {"form": form, "chosen": chosen.told()}
    record(action="usage.export", actor=actor, subject="usage:lines", now=now, **told)
    name = f"usage-{chosen.month or format(now, '%Y-%m-%d')}.{made.suffix}"
    return Export(name, made.media_type, lambda: made.write(found, now))
