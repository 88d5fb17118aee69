"""Checks of repeated bookings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime

from leasing.fsck.finding import Finding
from leasing.models import HandOver, Lease, Series
from leasing.recurrence import days_of


def series_are_whole(now: datetime) -> Iterator[Finding]:
    """Every date of a series has a lease, of the same people and kind, unless it was left out by name"""
    accepted = HandOver.objects.filter(state=HandOver.State.ACCEPTED, lease__series__isnull=False)
    given = set(accepted.values_list("lease", flat=True))
    for series in Series.objects.prefetch_related("leases").iterator(chunk_size=200):
        leases = list(series.leases.all())
        yield from _dates(series, {lease.occurs_on for lease in leases if lease.occurs_on})
        for lease in leases:
            if _whose(lease) != _whose(series) and lease.pk not in given:
                yield Finding(
                    f"lease:{lease.pk}", f"is not of the tenant, person, flavor and image of {series.pk}"
                )


def _dates(series: Series, booked: set[date]) -> Iterator[Finding]:
    due, left_out = set(days_of(series.pattern)), series.days_left_out
    for day in sorted(due - booked - left_out):
        yield Finding(f"series:{series.pk}", f"has neither a lease for {day} nor was it left out")
    for day in sorted(booked - due):
        yield Finding(f"series:{series.pk}", f"has a lease for {day}, which is none of its dates")
    for day in sorted(booked & left_out):
        yield Finding(f"series:{series.pk}", f"has a lease for {day}, which was left out")


def _whose(booked: Lease | Series) -> tuple[object, ...]:
    return booked.tenant_id, booked.owner_id, booked.flavor_id, booked.image_id
