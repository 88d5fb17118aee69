"""What a tenant allows: how long, how far ahead, and how much without asking. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from leasing.errors import InvalidRequest
from leasing.timing import PAST_TOLERANCE, SHORTEST_LEASE


@dataclass(frozen=True)
class Limits:
    """A tenant's rules."""

    longest: timedelta
    ahead: timedelta
    concurrent_gpus: int


@dataclass(frozen=True)
class Booked:
    """GPUs that the tenant has in `[starts_at, ends_at)`."""

    starts_at: datetime
    ends_at: datetime
    gpus: int


def check_window(starts_at: datetime, ends_at: datetime, *, limits: Limits, now: datetime) -> None:
    """Raise InvalidRequest, naming the field at fault, unless the window may be asked for."""
    if starts_at < now - PAST_TOLERANCE:
        raise InvalidRequest(
            _("The start lies in the past."), hint=_("Choose now or a later time."), field="starts_at"
        )
    if starts_at > now + limits.ahead:
        days = limits.ahead.days
        raise InvalidRequest(
            ngettext(
                "Your team books at most %(days)d day ahead.",
                "Your team books at most %(days)d days ahead.",
                days,
            )
            % {"days": days},
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
    if ends_at - starts_at > limits.longest:
        hours = int(limits.longest.total_seconds() // 3600)
        raise InvalidRequest(
            ngettext(
                "The longest lease of your team is %(hours)d hour.",
                "The longest lease of your team is %(hours)d hours.",
                hours,
            )
            % {"hours": hours},
            hint=_("Choose an earlier end, or book again afterwards."),
            field="ends_at",
        )


def peak_gpus(bookings: Iterable[Booked]) -> int:
    """The most GPUs that are booked at any one moment."""
    edges = sorted(
        edge
        for booking in bookings
        for edge in ((booking.starts_at, booking.gpus), (booking.ends_at, -booking.gpus))
    )
    peak = current = 0
    for _at, change in edges:
        current += change
        peak = max(peak, current)
    return peak
