"""What a tenant has booked, kept as the audit log tells it, so that each booking can be judged anew. Pure.

Monthly sums are kept, and bookings are found by the days that they touch: judging one costs what overlaps it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from leasing.limits import HOUR, Use, month_uses, peak_gpus
from leasing.states.lease import LeaseState
from leasing.terms import Term, trimmed

_HOLDING = frozenset({LeaseState.REQUESTED, LeaseState.SCHEDULED, LeaseState.PROVISIONING, LeaseState.ACTIVE})
_GPU_SECONDS = "GPU"


@dataclass(slots=True)
class Booking:
    """A lease as told so far. `pending_until` is a later end that its host is still to confirm."""

    owner: str
    model: str
    gpus: int
    starts_at: datetime
    ends_at: datetime
    terms: list[Term]
    currency: str
    state: str
    pending_until: datetime | None = None
    active_at: datetime | None = None
    stopped_at: datetime | None = None
    gone_at: datetime | None = None
    project: str = ""
    cost_centre: str = ""
    handed_over: list[datetime] = field(default_factory=list)

    @property
    def ran(self) -> bool:
        return self.active_at is not None

    @property
    def until(self) -> datetime:
        ends_at = self.pending_until or self.ends_at
        return min(ends_at, self.stopped_at or ends_at)

    @property
    def holds(self) -> bool:
        """Whether it counts among the GPUs at the same time."""
        return self.state in _HOLDING

    @property
    def counts(self) -> bool:
        """Whether it counts in its months: what ended before it ran does not."""
        return self.until > self.starts_at and (self.ran or self.state != LeaseState.ENDED)

    def use(self) -> Use:
        terms = trimmed(self.terms, self.starts_at, self.until)
        return Use(self.starts_at, self.until, self.gpus, 0, True, tuple(terms), self.currency)


@dataclass
class Ledger:
    """The bookings of one tenant, in the months of its zone."""

    zone: str
    bookings: dict[str, Booking] = field(default_factory=dict)
    _sums: dict[tuple[str, str, str, str], Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    _by_day: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, lease_id: str, booking: Booking) -> None:
        self.bookings[lease_id] = booking
        self._enter(lease_id, 1)

    @contextmanager
    def changing(self, lease_id: str) -> Iterator[Booking]:
        """The booking, to be changed in the block."""
        self._enter(lease_id, -1)
        yield self.bookings[lease_id]
        self._enter(lease_id, 1)

    def move_to(self, zone: str) -> None:
        """From now on months are those of another zone."""
        if zone != self.zone:
            self.zone = zone
            self._sums.clear()
            for booking in self.bookings.values():
                self._sum(booking, 1)

    def hours(self, month: str, *, owner: str = "", model: str = "") -> Decimal:
        """GPU-hours booked or used in a month: everybody's or one person's, of all models or of one."""
        return self._sums[_GPU_SECONDS, month, owner, model] / HOUR

    def money(self, currency: str, month: str, *, owner: str = "", model: str = "") -> Decimal:
        return self._sums[currency, month, owner, model] / HOUR

    def peak(self, lease_id: str, *, owner: str = "", model: str = "") -> int:
        """The most GPUs at any moment of a booking, itself included."""
        within = self.bookings[lease_id]
        near = set().union(*(self._by_day[day] for day in _days(within))) - {lease_id}
        others = [
            booking.use()
            for booking in map(self.bookings.__getitem__, near)
            if owner in ("", booking.owner) and model in ("", booking.model)
        ]
        return peak_gpus(others, within=within.use())

    def _enter(self, lease_id: str, sign: int) -> None:
        booking = self.bookings[lease_id]
        self._sum(booking, sign)
        if booking.holds:
            for day in _days(booking):
                if sign > 0:
                    self._by_day[day].add(lease_id)
                else:
                    self._by_day[day].discard(lease_id)

    def _sum(self, booking: Booking, sign: int) -> None:
        if not booking.counts:
            return
        for use in month_uses(booking.use(), self.zone):
            for owner in ("", booking.owner):
                for model in ("", booking.model):
                    self._sums[_GPU_SECONDS, use.month, owner, model] += sign * use.seconds * use.gpus
                    self._sums[use.currency, use.month, owner, model] += (
                        sign * use.seconds * use.rate_per_hour
                    )


def _days(booking: Booking) -> range:
    last = max(booking.starts_at, booking.until - timedelta(microseconds=1))
    return range(booking.starts_at.astimezone(UTC).toordinal(), last.astimezone(UTC).toordinal() + 1)
