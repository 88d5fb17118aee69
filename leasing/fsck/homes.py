"""Check that home volumes are with the leases of their people, and with nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from leasing.extras import UNTIL
from leasing.fsck.finding import Finding
from leasing.fsck.history import histories
from leasing.models import HomeReading, HomeVolume, Lease
from leasing.states.home import HomeEvent, HomeState
from leasing.states.lease import AHEAD, ON_HOST, RUNNING


def homes_are_where_they_belong(now: datetime) -> Iterator[Finding]:
    """A home volume is attached to one lease at most, of its person and team, on a host of its pool"""
    for volume in HomeVolume.objects.filter(lease__isnull=False).select_related("lease__host"):
        lease = volume.lease
        assert lease is not None  # noqa: S101 - asked for above
        if lease.state not in ON_HOST:
            yield Finding(f"home:{volume.pk}", f"is attached to lease {lease.pk}, which is {lease.state}")
        if (lease.owner_id, lease.tenant_id) != (volume.person_id, volume.tenant_id) or not lease.with_home:
            yield Finding(f"home:{volume.pk}", f"is attached to lease {lease.pk}, which may not have it")
        if lease.host is None or lease.host.pool_id != volume.pool_id:
            yield Finding(f"home:{volume.pk}", f"is attached to lease {lease.pk} on a host of another pool")
    for lease in Lease.objects.filter(state__in=ON_HOST, with_home=True, home=None):
        yield Finding(f"lease:{lease.pk}", f"is {lease.state} without its home volume")
    read = HomeReading.objects.filter(ended_at=None).values("volume")
    for volume in HomeVolume.objects.filter(state=HomeState.READING).exclude(pk__in=read):
        yield Finding(f"home:{volume.pk}", "is being read, and nobody reads it")
    for volume in HomeVolume.objects.filter(pk__in=read).exclude(state=HomeState.READING):
        yield Finding(f"home:{volume.pk}", f"is {volume.state} while somebody reads it")
    for volume in HomeVolume.objects.filter(state=HomeState.REMOVED).exclude(sealed_key=""):
        yield Finding(f"home:{volume.pk}", "is removed, and its key is kept")
    yield from _promised_twice()
    yield from _told()


def _promised_twice() -> Iterator[Finding]:
    """What runs, or is to, has its person's volume from its start to the end that was asked for last."""
    due = Lease.objects.filter(state__in=(*AHEAD, *RUNNING), with_home=True).annotate(until=UNTIL)
    last: dict[tuple[object, object], tuple[datetime, object]] = {}
    for lease in due.order_by("starts_at", "id"):
        whose = lease.owner_id, lease.tenant_id
        until, other = last.get(whose, (lease.starts_at, None))
        if lease.starts_at < until:
            yield Finding(f"lease:{lease.pk}", f"is to have a home volume at the same time as lease:{other}")
        last[whose] = max((until, other), (lease.until, lease.pk), key=lambda one: one[0])


def _told() -> Iterator[Finding]:
    """By the log, whoever attached it let go of it before the next one did."""
    has: dict[str, str] = {}
    for volume_id, changes in histories("home"):
        for change in changes:
            lease_id = str(change.detail.get("lease"))
            if change.event == HomeEvent.ATTACH:
                if lease_id in has:
                    yield Finding(f"lease:{lease_id}", "was attached two home volumes")
                has[lease_id] = volume_id
            elif change.event == HomeEvent.DETACH and has.get(lease_id) != volume_id:
                yield Finding(f"home:{volume_id}", f"left lease {lease_id}, which did not have it")
