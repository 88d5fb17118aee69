"""Check that nothing was booked beyond a limit without a decision: every sum is made anew from the log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec

from leasing.fsck.finding import Finding
from leasing.fsck.history import Act, acts
from leasing.fsck.ledger import Booking, Ledger
from leasing.fsck.retelling import BOOKS, booked, change_of, moment
from leasing.limits import DAY, HOUR, MILLIONTH, WARN, exact_seconds, month_spans, plain
from leasing.models import Lease
from leasing.quotas import PERSONAL
from leasing.states.lease import LeaseState

_ALWAYS = frozenset({"gpus", "longest", "ahead"})
_MONTHLY = frozenset({"gpu-hours", "budget"})
_ROUNDED = Decimal("0.005")


class Judged(msgspec.Struct, frozen=True):
    """A limit that a booking was judged by, and what counted then, as its entry says."""

    kind: str
    limit: Decimal
    counted: Decimal
    own: str = ""
    model: str = ""
    month: str = ""
    currency: str = ""
    rule: str = ""

    @property
    def about(self) -> About:
        return About(self.kind, bool(self.own), self.model)

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.model, "own" if self.own else "", self.month)))


class About(NamedTuple):
    """What a limit is about, for one person."""

    kind: str
    own: bool
    model: str


class Granted(NamedTuple):
    """A quota that was set, or lifted."""

    since: datetime
    value: Decimal | None
    until: datetime | None


@dataclass
class _Tenant:
    ledger: Ledger
    quotas: dict[tuple[str, str, str], list[Granted]] = field(default_factory=lambda: defaultdict(list))


def bookings_were_allowed(now: datetime) -> Iterator[Finding]:
    """Every booking was inside every limit, or another person who may except it has decided"""
    tenants: dict[str, _Tenant] = {}
    deciders = dict(Lease.objects.exclude(decided_by=None).values_list("pk", "decided_by__username"))
    decided = {str(pk): name for pk, name in deciders.items()}
    for act in acts("lease.", "quota.set"):
        if act.tenant is None:
            continue
        tenant = tenants.setdefault(act.tenant, _Tenant(Ledger("UTC")))
        if act.action == "quota.set":
            _note_quota(tenant, act)
            continue
        if act.event in BOOKS:
            tenant.ledger.move_to(act.detail["zone"])
            tenant.ledger.add(act.subject_id, booked(act))
        booking = tenant.ledger.bookings.get(act.subject_id)
        if booking is None:
            continue
        if act.event == "approve":
            yield from _decision(act, booking, decided.get(act.subject_id))
        _follow(tenant.ledger, act)
        if "limits" in act.detail:
            yield from _judge(tenant, act, booking)


def _follow(ledger: Ledger, act: Act) -> None:
    """What the entry changes of a booking."""
    change = change_of(act)
    if change is not None:
        with ledger.changing(act.subject_id) as booking:
            change(booking, act)


def _judge(tenant: _Tenant, act: Act, booking: Booking) -> Iterator[Finding]:
    judged = msgspec.convert(act.detail["limits"], type=list[Judged], strict=False)
    for one in judged:
        total = _total(tenant.ledger, act, booking, one)
        if total is None or total > one.limit:
            if booking.state != LeaseState.REQUESTED and one.rule != WARN and not _excepted(act, booking):
                counted = "another currency" if total is None else plain(total)
                yield Finding(act.subject, f"{one} came to {counted}; {plain(one.limit)} need no decision")
        elif total > one.counted + _ROUNDED:
            yield Finding(act.subject, f"{one} was counted as {one.counted}, but was {plain(total)}")
    yield from _overlooked(tenant, act, booking, judged)


def _excepted(act: Act, booking: Booking) -> bool:
    """Whether somebody else than who gives and who takes it has agreed to a hand-over beyond the limits."""
    theirs = (booking.owner, act.detail.get("was"), act.detail.get("owner"))
    return "excepted" in act.detail and act.actor.kind == "person" and act.actor.name not in theirs


def _total(ledger: Ledger, act: Act, booking: Booking, one: Judged) -> Decimal | None:
    """What counted against the limit, this booking included; None if it is in another currency."""
    owner = booking.owner if one.own else ""
    match one.kind:
        case "longest":
            found = exact_seconds(booking.until - booking.starts_at) / HOUR
        case "ahead":
            found = exact_seconds(booking.starts_at - act.recorded_at) / DAY
        case "gpus":
            found = Decimal(ledger.peak(act.subject_id, owner=owner, model=one.model))
        case "gpu-hours":
            found = ledger.hours(one.month, owner=owner, model=one.model)
        case "budget":
            if one.currency != booking.currency:
                return None
            found = ledger.money(one.currency, one.month, owner=owner, model=one.model)
        case _:
            raise ValueError(f"no limit is called {one.kind}")
    return found.quantize(MILLIONTH)


def _overlooked(tenant: _Tenant, act: Act, booking: Booking, judged: list[Judged]) -> Iterator[Finding]:
    """Limits that were in force and that the booking was not judged by."""
    limits = {(one.about, one.month): one.limit for one in judged}
    due: dict[About, Decimal | None] = {About(kind, False, ""): None for kind in _ALWAYS}
    for (kind, person, model), granted in tenant.quotas.items():
        value = _in_force(granted, act.recorded_at)
        if value is not None and person in ("", booking.owner) and model in ("", booking.model):
            due[About(kind, bool(person), model)] = value
    for kind in PERSONAL:
        if About(kind, True, "") in due:
            del due[About(kind, False, "")]
    months = [name for name, _, _ in month_spans(booking.starts_at, booking.until, tenant.ledger.zone)]
    foreign = {one.about for one in judged if one.currency not in ("", booking.currency)}
    for about, value in due.items():
        for month in months if about.kind in _MONTHLY and about not in foreign else [""]:
            found = limits.get((about, month))
            if found is None or value not in (None, found):
                yield Finding(act.subject, f"was not judged by the limit of {about.kind} {month}".rstrip())


def _in_force(granted: list[Granted], at: datetime) -> Decimal | None:
    """The newest one, of those that count then."""
    counting = [one for one in granted if one.since <= at and (one.until is None or one.until > at)]
    return max(counting, key=lambda one: one.since).value if counting else None


def _note_quota(tenant: _Tenant, act: Act) -> None:
    told = act.detail
    until = moment(told["until"]) if told["until"] else None
    value = None if told["value"] is None else Decimal(told["value"])
    granted = Granted(act.recorded_at, value, until)
    # Of two at the same moment the later one counts.
    tenant.quotas[told["kind"], told["person"], told["model"]].insert(0, granted)


def _decision(act: Act, booking: Booking, decided_by: str | None) -> Iterator[Finding]:
    if act.actor.kind != "person" or act.actor.name == booking.owner:
        yield Finding(act.subject, f"was approved by {act.actor.name}, who may not")
    elif decided_by in (None, booking.owner):
        yield Finding(act.subject, "does not name the person who decided")
