"""A lease as the audit log tells it: what was booked, and what each later entry changes of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from leasing.fsck.history import Act, terms_of
from leasing.fsck.ledger import Booking
from leasing.states.lease import LeaseState
from leasing.terms import trimmed

BOOKS = frozenset({"request", "claim", "ask"})
_AHEAD = frozenset({LeaseState.REQUESTED, LeaseState.SCHEDULED})
Change = Callable[[Booking, Act], None]


def booked(act: Act) -> Booking:
    """What an entry by which something is booked tells."""
    told = act.detail
    return Booking(
        owner=told["owner"],
        model=told["model"],
        gpus=len(told["gpus"]),
        starts_at=moment(told["starts_at"]),
        ends_at=moment(told["ends_at"]),
        terms=terms_of(told),
        currency=told["currency"],
        state=told["to"],
        project=told["project"],
        cost_centre=told["cost_centre"],
    )


def change_of(act: Act) -> Change | None:
    """What the entry changes of a booking; None if it is nothing."""
    change = _CHANGES.get(act.event)
    if change is not None:
        return lambda booking, act: change(booking, act.detail)
    return _move if act.event != "request" and "to" in act.detail else None


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _move(booking: Booking, act: Act) -> None:
    booking.state = act.after
    if act.event == "running":
        booking.active_at = act.effective_at
    if act.event == "gone":
        booking.gone_at = act.effective_at
    if booking.state in (LeaseState.RELEASING, LeaseState.ENDED):
        booking.pending_until = None
        booking.stopped_at = booking.stopped_at or act.effective_at


def _extend(booking: Booking, told: dict[str, Any]) -> None:
    booking.terms = [*trimmed(booking.terms, booking.starts_at, booking.ends_at), *terms_of(told)]
    if booking.state in _AHEAD:
        booking.ends_at = moment(told["ends_at"])
    else:
        booking.pending_until = moment(told["ends_at"])


def _end_at(booking: Booking, told: dict[str, Any]) -> None:
    booking.ends_at, booking.pending_until = moment(told["ends_at"]), None


def _change(booking: Booking, told: dict[str, Any]) -> None:
    booking.starts_at, booking.ends_at = moment(told["starts_at"]), moment(told["ends_at"])
    booking.terms, booking.currency = terms_of(told), told["currency"]


def _hand_over(booking: Booking, told: dict[str, Any]) -> None:
    booking.owner = told["owner"]
    booking.handed_over.append(moment(told["at"]))


def _tag(booking: Booking, told: dict[str, Any]) -> None:
    booking.project, booking.cost_centre = told["after"]["project"], told["after"]["cost_centre"]


_CHANGES: dict[str, Callable[[Booking, dict[str, Any]], None]] = {
    "extend": _extend,
    "extended": _end_at,
    "not-extended": _end_at,
    "shorten": _end_at,
    "change": _change,
    "tag": _tag,
    "hand-over": _hand_over,
}
