"""Another time for a workstation that has not begun: what it would cost, and what stands in its way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext as _

from leasing import holds
from leasing.booking import limits_met
from leasing.errors import WrongState
from leasing.extras import extras_of
from leasing.limits import check_window
from leasing.locking import locked
from leasing.models import Lease
from leasing.pricing import Quote, quote_lease
from leasing.quotas import Verdict
from leasing.slots import NearMisses, is_free, near_misses
from leasing.states.lease import AHEAD, LeaseState


@dataclass(frozen=True)
class OtherTime:
    """The window, its price and what it does to each limit; `instead` if it cannot be had."""

    starts_at: datetime
    ends_at: datetime
    quote: Quote
    verdict: Verdict
    instead: NearMisses | None
    is_refused: bool
    """Whether it is outside limits inside of which it has to stay."""


def other_time(lease: Lease, starts_at: datetime, ends_at: datetime, *, now: datetime) -> OtherTime:
    """What `change_window` would do. Changes nothing. Raises InvalidRequest or WrongState."""
    require_ahead(lease)
    check_window(starts_at, ends_at, now=now)
    wanted = Lease.objects.select_related("tenant", "owner", "flavor__model", "snapshot").get(pk=lease.pk)
    wanted.starts_at, wanted.ends_at = max(starts_at, now), ends_at
    window = {"starts_at": wanted.starts_at, "ends_at": wanted.ends_at}
    quote = quote_lease(flavor=wanted.flavor, tenant=wanted.tenant, **window, now=now)
    wanted.currency = quote.currency
    verdict = limits_met(wanted, quote.terms, now=now)
    return OtherTime(
        **window,
        quote=quote,
        verdict=verdict,
        instead=_instead(wanted, now=now),
        is_refused=bool(verdict.refusal or (verdict.reason and lease.state != LeaseState.REQUESTED)),
    )


def require_ahead(lease: Lease) -> None:
    """Raises WrongState for what has begun."""
    if lease.state not in AHEAD:
        raise WrongState(_("It has begun: only its end can be changed."))


def _instead(wanted: Lease, *, now: datetime) -> NearMisses | None:
    """What nearly fits, if the window does not: as if what the lease has now were given up."""
    with transaction.atomic():
        holds.drop(locked(Lease.objects.all()).get(pk=wanted.pk))
        found = _nearly(wanted, now=now)
        transaction.set_rollback(True)
    return found


def _nearly(wanted: Lease, *, now: datetime) -> NearMisses | None:
    flavor, starts_at, ends_at, extras = wanted.flavor, wanted.starts_at, wanted.ends_at, extras_of(wanted)
    if is_free(flavor, starts_at, ends_at, extras=extras, now=now):
        return None
    return near_misses(
        flavor,
        ends_at - starts_at,
        person=wanted.owner,
        tenant=wanted.tenant,
        earliest=starts_at,
        extras=extras,
        now=now,
    )
