"""Signs that a machine is used, from whoever can see some: an interface, and what the portal knows itself.

Not having seen any use says something only where any use would have been seen: a source that watches says
from when until when it has. Hosts watch machines from outside. The portal sees that a console is opened or
power is switched, and nothing else, so it never watches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from leasing.models import Guest, Lease


@dataclass(frozen=True)
class Signs:
    """What is known of a machine's use: in `[watched_from, watched_until)` any use would have been seen."""

    first_used_at: datetime | None = None
    last_used_at: datetime | None = None
    watched_from: datetime | None = None
    watched_until: datetime | None = None


class Source(Protocol):
    """Whoever can see use."""

    def signs_of(self, leases: Sequence[Lease], *, now: datetime) -> Mapping[UUID, Signs]:
        """By lease; those that it knows nothing of may be left out."""


class OwnRecords:
    """What people did through the portal. Whoever signs in to the machine itself is not seen."""

    def signs_of(self, leases: Sequence[Lease], *, now: datetime) -> Mapping[UUID, Signs]:
        return {lease.pk: Signs(lease.first_used_at, lease.last_used_at) for lease in leases}


class Hosts:
    """What hosts see of their machines: console, network, processor; who is signed in, if the guest says it.

    A host says that there was no use only of what it has watched since the machine's first start.
    """

    def signs_of(self, leases: Sequence[Lease], *, now: datetime) -> Mapping[UUID, Signs]:
        told = Guest.objects.select_related("lease").filter(lease__in=leases)
        return {guest.pk: _signs(guest) for guest in told}


SOURCES: list[Source] = [OwnRecords(), Hosts()]


def _signs(guest: Guest) -> Signs:
    if guest.use == "unknown":
        return Signs()
    if guest.use == "none":
        return Signs(watched_from=guest.lease.active_at, watched_until=guest.told_at)
    return Signs(first_used_at=guest.used_at or guest.told_at)


def signs_of(lease: Lease, *, now: datetime) -> list[Signs]:
    """What each source knows of a lease."""
    answers = (source.signs_of([lease], now=now).get(lease.pk) for source in SOURCES)
    return [signs for signs in answers if signs is not None]


def was_used(signs: Iterable[Signs]) -> bool:
    return any(one.first_used_at is not None or one.last_used_at is not None for one in signs)


def watched_until(signs: Iterable[Signs], *, since: datetime) -> datetime | None:
    """Until when some source has watched without a break since then; None if none has."""
    return max(
        (
            one.watched_until
            for one in signs
            if one.watched_from is not None and one.watched_until is not None and one.watched_from <= since
        ),
        default=None,
    )


def note_use(lease: Lease, *, now: datetime) -> None:
    """Its person has done something with it. The caller has locked the lease."""
    lease.first_used_at, lease.last_used_at = lease.first_used_at or now, now
    lease.save(update_fields=["first_used_at", "last_used_at"])
