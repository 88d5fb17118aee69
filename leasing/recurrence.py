"""Which windows a repeated booking consists of: local times on chosen days of the week, in UTC. Pure.

Local times stay as they are across daylight-saving changes. A time that exists twice is the first of the two;
one that does not exist is the moment at which the clock jumps over it. So windows of one length in local time
never overlap, and one that the jump leaves nothing of is known to have no time on that day.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.utils.dates import WEEKDAYS_ABBR
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from leasing.errors import InvalidRequest
from leasing.timing import FARTHEST_START, SHORTEST_LEASE

MOST_OCCURRENCES = 260
MOST_WEEKS_BETWEEN = 26
EVERY_DAY = frozenset(range(1, 8))
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


@dataclass(frozen=True)
class Occurrence:
    """One window of a pattern; `day` is the local date on which it begins, and names it."""

    day: date
    starts_at: datetime
    ends_at: datetime

    @property
    def has_time(self) -> bool:
        """False where the clock jumps over it."""
        return self.ends_at - self.starts_at >= SHORTEST_LEASE


@dataclass(frozen=True)
class Pattern:
    """From `starts` until `ends` in a zone, on these days of the week (ISO: 1 is Monday) of every n-th week.

    An end at or before the start is on the next day. Weeks begin on Monday, and the first is that of
    `first_on`; both dates are included.
    """

    weekdays: frozenset[int]
    starts: time
    ends: time
    zone: str
    first_on: date
    last_on: date
    every_weeks: int = 1

    def __str__(self) -> str:
        return described(self)


def days_of(pattern: Pattern) -> Iterator[date]:
    """The dates on which the pattern's windows begin."""
    monday = pattern.first_on - (pattern.first_on.isoweekday() - 1) * DAY
    for number in range((pattern.last_on - pattern.first_on).days + 1):
        day = pattern.first_on + number * DAY
        weeks = (day - monday).days // 7
        if weeks % pattern.every_weeks == 0 and day.isoweekday() in pattern.weekdays:
            yield day


def occurrences(pattern: Pattern) -> Iterator[Occurrence]:
    """Every window, in order, those without time too."""
    zone = ZoneInfo(pattern.zone)
    overnight = DAY if pattern.ends <= pattern.starts else timedelta(0)
    for day in days_of(pattern):
        starts_at = moment_of(day, pattern.starts, zone)
        yield Occurrence(day, starts_at, moment_of(day + overnight, pattern.ends, zone))


def moment_of(day: date, at: time, zone: ZoneInfo) -> datetime:
    """A local time in UTC."""
    local = datetime.combine(day, at)
    first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return first if first <= second else _jump(second, first, zone)


def check_pattern(pattern: Pattern, *, now: datetime) -> list[Occurrence]:
    """Its windows, if it may be asked for. Raises InvalidRequest, naming the field at fault."""
    zone = zone_named(pattern.zone)
    if not pattern.weekdays or not pattern.weekdays <= EVERY_DAY:
        raise InvalidRequest(_("Choose at least one day of the week."), field="weekdays")
    if not 1 <= pattern.every_weeks <= MOST_WEEKS_BETWEEN:
        raise InvalidRequest(_("It can be every week, up to every 26th one."), field="every_weeks")
    if pattern.first_on < now.astimezone(zone).date():
        raise InvalidRequest(_("The first date lies in the past."), field="first_on")
    if pattern.last_on < pattern.first_on:
        raise InvalidRequest(
            _("The last date is before the first."), hint=_("Choose a later one."), field="last_on"
        )
    if pattern.last_on > (now + FARTHEST_START - DAY).astimezone(zone).date():
        raise InvalidRequest(
            _("Nobody books more than two years ahead."), hint=_("Choose an earlier date."), field="last_on"
        )
    return _some_but_not_too_many(pattern)


def check_between(found: list[Occurrence], least: timedelta) -> None:
    """InvalidRequest unless there is this time from the end of each window to the next."""
    if any(later.starts_at - earlier.ends_at < least for earlier, later in pairwise(found)):
        raise InvalidRequest(
            _("Between two of them the GPU is cleaned and the next machine built: leave %(minutes)d minutes.")
            % {"minutes": -(-least // timedelta(minutes=1))},
            hint=_("Choose an earlier end, or one booking for the whole time."),
            field="ends",
        )


def zone_named(name: str) -> ZoneInfo:
    """Raises InvalidRequest where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(_("“%(zone)s” is not a time zone.") % {"zone": name}, field="zone") from error


def described(pattern: Pattern) -> str:
    """In words of the active language: `Mon, Tue 09:00–17:00 (Europe/Berlin), 2 March – 30 April 2026`."""
    facts = {
        "days": _days(pattern),
        "starts": f"{pattern.starts:%H:%M}",
        "ends": f"{pattern.ends:%H:%M}",
        "zone": pattern.zone,
        "first": date_format(pattern.first_on, pgettext("date", "j M Y")),
        "last": date_format(pattern.last_on, pgettext("date", "j M Y")),
        "n": pattern.every_weeks,
    }
    if pattern.every_weeks == 1:
        return _("%(days)s %(starts)s–%(ends)s (%(zone)s), %(first)s – %(last)s") % facts
    return _("%(days)s every %(n)d weeks, %(starts)s–%(ends)s (%(zone)s), %(first)s – %(last)s") % facts


def _some_but_not_too_many(pattern: Pattern) -> list[Occurrence]:
    found = list(islice(occurrences(pattern), MOST_OCCURRENCES + 1))
    if not found:
        raise InvalidRequest(_("None of these days lies between the two dates."), field="last_on")
    if len(found) > MOST_OCCURRENCES:
        raise InvalidRequest(
            _("At most %(most)d bookings are made at once.") % {"most": MOST_OCCURRENCES},
            hint=_("Choose an earlier last date, and book the rest afterwards."),
            field="last_on",
        )
    return found


def _days(pattern: Pattern) -> str:
    if pattern.weekdays == EVERY_DAY:
        return _("Every day")
    return ", ".join(str(WEEKDAYS_ABBR[day - 1]) for day in sorted(pattern.weekdays))


def _jump(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """When, between the two, the zone's clock jumps."""
    offset = before.astimezone(zone).utcoffset()
    seconds = range((after - before) // SECOND + 1)
    jumped = bisect_left(
        seconds, True, key=lambda n: (before + n * SECOND).astimezone(zone).utcoffset() != offset
    )
    return before + jumped * SECOND
