"""Ready-made extensions: a little more, until tomorrow evening, as long as possible; each with its price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from leasing import metering, quotas
from leasing.latest_end import ExtensionLimit, extension_limit
from leasing.limits import longest_unasked
from leasing.models import Extension, Lease
from leasing.pricing import Price, Quote, price_of
from leasing.reasons import NONE, Reason, because
from leasing.states.lease import LeaseState

EXTENDABLE = frozenset({LeaseState.SCHEDULED, LeaseState.PROVISIONING, LeaseState.ACTIVE})
MINUTE = timedelta(minutes=1)
EVENING = time(18)
NAMES: dict[str, Promise] = {
    "hour": _("+1 h"),
    "four-hours": _("+4 h"),
    "evening": _("tomorrow evening"),
    "longest": _("as long as possible"),
}


@dataclass(frozen=True)
class Offer:
    """A later end and what it adds to the price; `outside` says why it would be refused, if it would."""

    name: str
    ends_at: datetime
    quote: Quote
    outside: Reason

    @property
    def words(self) -> Promise:
        return NAMES[self.name]


@dataclass(frozen=True)
class MoreTime:
    """How a lease can be kept longer, and what stands in the way of more.

    `pending_until` is a later end that waits for the host's word; nothing is offered meanwhile.
    `why_not_longer` is the limit that comes before somebody else does.
    """

    limit: ExtensionLimit
    offers: list[Offer]
    why_not_longer: Reason = NONE
    pending_until: datetime | None = None


def more_time(lease: Lease, *, now: datetime) -> MoreTime:
    """What its owner is offered. Whether it can still be had is for `change_end` to say."""
    limit = extension_limit(lease, now=now)
    pending = lease.extensions.filter(state=Extension.State.PENDING).first()
    if pending is not None:
        return MoreTime(limit, [], pending_until=pending.new_ends_at)
    if lease.state not in EXTENDABLE:
        return MoreTime(limit, [])
    price = price_of(lease.flavor, lease.tenant, at=now)
    if price is None:
        return MoreTime(limit, [], because("no-price", flavor=lease.flavor.name))
    objection = _objection(lease, price, limit.until, now)
    longest = longest_inside(lease.ends_at, limit.until, lambda ends_at: not objection(ends_at))
    ends = offered_ends(lease.ends_at, longest, limit.until, zone=lease.owner.timezone, now=now)
    offers = [Offer(name, at, price.quote(lease.ends_at, at), objection(at)) for name, at in ends]
    return MoreTime(limit, offers, objection(longest + MINUTE) if longest < limit.until else NONE)


def offered_ends(
    ends_at: datetime, longest: datetime, possible: datetime, *, zone: str, now: datetime
) -> list[tuple[str, datetime]]:
    """Later ends with their names, earliest first, each once: none that is past `possible`."""
    local = now.astimezone(ZoneInfo(zone))
    evening = datetime.combine(local.date() + timedelta(days=1), EVENING, local.tzinfo)
    named = [
        ("longest", longest),
        ("hour", ends_at + timedelta(hours=1)),
        ("four-hours", ends_at + timedelta(hours=4)),
        ("evening", evening.astimezone(ends_at.tzinfo)),
    ]
    found: dict[datetime, str] = {}
    for name, at in named:
        if ends_at < at <= possible:
            found.setdefault(at, name)
    return [(name, at) for at, name in sorted(found.items())]


def longest_inside(ends_at: datetime, until: datetime, is_inside: Callable[[datetime], bool]) -> datetime:
    """The latest end up to `until` that is inside, to a whole minute more; `ends_at` if none is.

    Whatever is inside stays so when it is shortened, so that halving finds it.
    """
    if until <= ends_at or is_inside(until):
        return max(ends_at, until)
    inside, outside = 0, (until - ends_at) // MINUTE + 1
    while outside - inside > 1:
        middle = (inside + outside) // 2
        if is_inside(ends_at + middle * MINUTE):
            inside = middle
        else:
            outside = middle
    return ends_at + inside * MINUTE


def _objection(lease: Lease, price: Price, until: datetime, now: datetime) -> Callable[[datetime], Reason]:
    """Why an end up to `until` would be outside the limits; what there is, is looked up once.

    Only as far as it may last without asking: beyond that there is an objection in any case.
    """
    tenant, owner = lease.tenant, lease.owner
    limits = quotas.limits_in_force(tenant, owner, now=now)
    unasked = lease.starts_at + longest_unasked(limits, lease.flavor.model_id)
    account = quotas.account_of(
        tenant=tenant,
        person=owner,
        starts_at=lease.starts_at,
        ends_at=min(until, max(unasked, lease.ends_at) + MINUTE),
        without=lease.pk,
        now=now,
    )
    booked = metering.terms(lease)

    def objection(ends_at: datetime) -> Reason:
        more = price.quote(lease.ends_at, ends_at).terms if ends_at > lease.ends_at else ()
        return account.judge(quotas.use_of(lease, [*booked, *more])).reason

    return objection
