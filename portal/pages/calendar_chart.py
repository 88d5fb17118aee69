"""What the calendar draws: places in percent of the window across, in pixels down, and the words to each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

from django.urls import reverse
from django.utils.translation import pgettext_lazy

from leasing.availability.pool import HostRow, Overview, Pool, Step
from leasing.availability.sweep import Kind, Stretch
from leasing.models import Flavor, Lease
from leasing.openings.spans import moment
from leasing.timing import SHORTEST_LEASE
from portal.pages.booking_form import LOCAL_TIME, UNTIL
from portal.pages.calendar_windows import DAY, MINUTE, View, days_of, next_whole_minute, sayable, whole_minute
from portal.pages.looks import STRETCH_LOOKS, Look, look_of_lease

MONDAY = 0
# Shorter than the language's own abbreviations may be.
WEEKDAYS = (
    pgettext_lazy("short day of the week", "Mon"),
    pgettext_lazy("short day of the week", "Tue"),
    pgettext_lazy("short day of the week", "Wed"),
    pgettext_lazy("short day of the week", "Thu"),
    pgettext_lazy("short day of the week", "Fri"),
    pgettext_lazy("short day of the week", "Sat"),
    pgettext_lazy("short day of the week", "Sun"),
)
LANE, LANE_GAP = 18, 4
TRACK, TRACK_GAP = 20, 3
BAR = 64
# Percent of the window that words need beside a desk, and on a phone.
ROOM, ROOM_ON_A_PHONE = 8.0, 28.0


@dataclass(frozen=True)
class Across:
    """Where something lies in the window, as SVG takes it."""

    x: str
    width: str
    percent: float

    @property
    def roomy(self) -> bool:
        return self.percent >= ROOM

    @property
    def narrow(self) -> bool:
        """Its words have to give way on a phone."""
        return self.percent < ROOM_ON_A_PHONE


@dataclass(frozen=True)
class Tick:
    """A moment that is marked, and the room up to the next one; `minor` ones give way on a phone."""

    at: Across
    text: str
    minor: bool


@dataclass(frozen=True)
class StepBar:
    """How many GPUs are free in a step; heights in pixels."""

    step: Step
    at: Across
    least: int
    most: int
    unavailable: int
    address: str

    @property
    def least_y(self) -> int:
        return BAR - self.least

    @property
    def most_y(self) -> int:
        return BAR - self.most


@dataclass(frozen=True)
class Part:
    """A stretch on the lane of its GPU."""

    at: Across
    y: int
    kind: Kind
    look: Look


@dataclass(frozen=True)
class Drawn:
    """A lease that the reader may see: all its parts are one link."""

    lease: Lease
    look: Look
    parts: list[Part]


@dataclass(frozen=True)
class Bookable:
    """A span in which the flavor could be leased; no address for those who cannot book."""

    starts_at: datetime
    ends_at: datetime
    at: Across
    y: int
    address: str


@dataclass(frozen=True)
class Line:
    """A row of the table that says what the lanes draw; `gpu` is counted from 1."""

    starts_at: datetime
    ends_at: datetime
    gpu: int
    look: Look
    lease: Lease | None


@dataclass(frozen=True)
class HostChart:
    row: HostRow
    height: int
    lanes: list[int]
    anonymous: list[Part]
    drawn: list[Drawn]
    bookable: list[Bookable]
    lines: list[Line]
    lane_height: int = LANE
    track_height: int = TRACK


@dataclass(frozen=True)
class Drawing:
    """The window between the first and the last edge, of a pool, for a reader in a zone."""

    pool: Pool
    edges: list[datetime]
    zone: ZoneInfo
    may_book: bool
    now: datetime

    def across(self, starts_at: datetime, ends_at: datetime) -> Across:
        return lay_across((self.edges[0], self.edges[-1]), starts_at, ends_at)

    def ticks(self, view: View) -> list[Tick]:
        at = self.edges[:-1] if view is View.DAY else days_of(self.edges, self.zone)
        ends = [*at[1:], self.edges[-1]]
        return [
            Tick(self.across(one, end), *_named(one.astimezone(self.zone), view))
            for one, end in zip(at, ends, strict=True)
        ]

    def present(self) -> str:
        """Where now is; empty if it is elsewhere."""
        inside = self.edges[0] <= self.now < self.edges[-1]
        return self.across(self.now, self.now).x if inside else ""

    def bars(self, overview: Overview) -> list[StepBar]:
        def pixels(gpus: int) -> int:
            return round(BAR * gpus / max(1, overview.gpus))

        return [
            StepBar(
                step,
                self.across(step.starts_at, step.ends_at),
                pixels(step.free_least),
                pixels(step.free_most),
                pixels(step.unavailable),
                self._address(step.starts_at, step.ends_at) if step.leasable else "",
            )
            for step in overview.steps
        ]

    def host(self, row: HostRow, leases: dict[UUID, Lease]) -> HostChart:
        parts: dict[UUID, list[Part]] = defaultdict(list)
        anonymous: list[Part] = []
        lines: list[Line] = []
        for lane, gpu in enumerate(row.gpus):
            for stretch in gpu.stretches:
                lease = leases.get(stretch.lease_id) if stretch.lease_id else None
                look = _look(stretch, lease)
                part = Part(self._across(stretch), lane * (LANE + LANE_GAP), stretch.kind, look)
                (anonymous if lease is None else parts[lease.pk]).append(part)
                lines.append(Line(moment(stretch.starts), moment(stretch.ends), lane + 1, look, lease))
        bookable = list(self._bookable(row))
        lanes = [number * (LANE + LANE_GAP) for number in range(len(row.gpus))]
        bottom = max((one.y + TRACK for one in bookable), default=lanes[-1] + LANE)
        drawn = [Drawn(leases[pk], look_of_lease(leases[pk]), found) for pk, found in parts.items()]
        return HostChart(row, bottom, lanes, anonymous, drawn, bookable, _in_order(lines))

    def _across(self, stretch: Stretch) -> Across:
        return self.across(moment(stretch.starts), moment(stretch.ends))

    def _bookable(self, row: HostRow) -> Iterator[Bookable]:
        """Spans may overlap: each goes on the first track that is free by then."""
        ends_of_tracks: list[int] = []
        top = len(row.gpus) * (LANE + LANE_GAP) + TRACK_GAP
        for span in row.leasable:
            track = next((n for n, end in enumerate(ends_of_tracks) if end <= span.starts), None)
            if track is None:
                track = len(ends_of_tracks)
                ends_of_tracks.append(span.ends)
            ends_of_tracks[track] = span.ends
            starts_at, ends_at = moment(span.starts), moment(span.ends)
            yield Bookable(
                starts_at,
                ends_at,
                self.across(starts_at, ends_at),
                top + track * (TRACK + TRACK_GAP),
                self._address(starts_at, ends_at),
            )

    def _address(self, starts_at: datetime, ends_at: datetime) -> str:
        if not self.may_book or self.pool.flavor is None:
            return ""
        return book_address(self.pool.flavor, starts_at, ends_at, zone=self.zone, now=self.now)


def lay_across(whole: tuple[datetime, datetime], starts_at: datetime, ends_at: datetime) -> Across:
    """Where a part of a window lies in it."""
    length = whole[1] - whole[0]
    x, width = 100 * (starts_at - whole[0]) / length, 100 * (ends_at - starts_at) / length
    return Across(f"{x:.3f}%", f"{width:.3f}%", width)


def book_address(
    flavor: Flavor, starts_at: datetime, ends_at: datetime, *, zone: ZoneInfo, now: datetime
) -> str:
    """The book page with this window filled in, or the first hours of one that is longer than a day.

    The page can say whole minutes, and none that the clocks show twice. Empty if nothing is left of it.
    """
    begins = sayable(next_whole_minute(max(starts_at, now)), zone, MINUTE)
    ends = sayable(whole_minute(ends_at), zone, -MINUTE)
    if ends - begins < SHORTEST_LEASE:
        return ""
    chosen = {"flavor": flavor.slug}
    if starts_at <= now:
        chosen |= {"when": "now"}
    else:
        chosen |= {"when": "at", "starts_at": begins.astimezone(zone).strftime(LOCAL_TIME)}
    if ends - begins <= DAY:
        chosen |= {"length": UNTIL, "ends_at": ends.astimezone(zone).strftime(LOCAL_TIME)}
    return f"{reverse('book')}?{urlencode(chosen)}"


def _named(local: datetime, view: View) -> tuple[str, bool]:
    if view is View.DAY:
        return f"{local:%H}", local.hour % 3 != 0
    minor = view is not View.WEEK and local.weekday() != MONDAY
    return str(local.day) if view is View.MONTH else f"{WEEKDAYS[local.weekday()]} {local.day}", minor


def _look(stretch: Stretch, lease: Lease | None) -> Look:
    if lease is not None and stretch.kind is Kind.LEASE:
        return look_of_lease(lease)
    return STRETCH_LOOKS[stretch.kind]


def _in_order(lines: list[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: (line.starts_at, line.gpu))
