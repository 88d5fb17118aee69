"""Checks that chosen USB devices are where their leases are, and nobody else's at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db.models import F

from leasing.fsck.finding import Finding
from leasing.models import Hold, LeaseDevice
from leasing.states.lease import AHEAD, HOLDING


def devices_are_one_leases(now: datetime) -> Iterator[Finding]:
    """Chosen USB devices are at the host of their lease, and no other lease has them meanwhile"""
    chosen = LeaseDevice.objects.filter(lease__state__in=HOLDING)
    for one in chosen.exclude(device__host=F("lease__bound_to")):
        yield Finding(f"lease:{one.lease_id}", f"has the device {one.device_id} of another host")
    away = Hold.objects.filter(lease__state__in=HOLDING, lease__bound_to__isnull=False)
    for hold in away.exclude(gpu__host=F("lease__bound_to")):
        yield Finding(f"lease:{hold.lease_id}", "has GPUs of another host than its devices")
    # What overruns may reach into the next one's time: that one waits.
    spans = Hold.objects.filter(lease__state__in=AHEAD, lease__devices__isnull=False)
    told = spans.order_by("lease__devices__device", "starts_at", "lease")
    rows = told.values_list("lease__devices__device", "starts_at", "ends_at", "lease")
    last: tuple[int, datetime, datetime, object] | None = None
    for row in rows:
        if last is not None and row[0] == last[0] and row[3] != last[3] and row[1] < last[2]:
            yield Finding(f"lease:{row[3]}", f"has a USB device at the same time as lease:{last[3]}")
        last = row if last is None or row[0] != last[0] or row[2] > last[2] else last
