"""The months of a tenant: where one begins and ends in the tenant's zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.utils.translation import gettext as _

from leasing.errors import InvalidRequest

FIRST_YEAR, LAST_YEAR = 2000, 2099


class Month(NamedTuple):
    """`name` is `2026-03`; the month is `[starts_at, ends_at)`, UTC."""

    name: str
    starts_at: datetime
    ends_at: datetime


def month_named(name: str, zone: str) -> Month:
    """Raises InvalidRequest."""
    try:
        year, number = map(int, name.split("-"))
        if name != f"{year:04d}-{number:02d}" or not FIRST_YEAR <= year <= LAST_YEAR:
            raise ValueError(name)
        begin = datetime(year, number, 1, tzinfo=ZoneInfo(zone))
    except ValueError:
        raise InvalidRequest(_("Say the month as in 2026-03."), field="month") from None
    following = (begin + timedelta(days=32)).replace(day=1)
    return Month(name, begin.astimezone(UTC), following.astimezone(UTC))


def month_of(at: datetime, zone: str) -> Month:
    """The one that a moment lies in."""
    return month_named(at.astimezone(ZoneInfo(zone)).strftime("%Y-%m"), zone)


def month_before(at: datetime, zone: str) -> Month:
    """The last one that is over."""
    return month_of(month_of(at, zone).starts_at - timedelta(seconds=1), zone)
