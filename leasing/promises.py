"""What a lease promises when it is booked or offered, as the audit log tells it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from leasing import devices
from leasing.models import Lease
from leasing.terms import Term


def promised(lease: Lease, terms: Sequence[Term], gpus: Iterable[UUID]) -> dict[str, Any]:
    """What, for whom, at which price, on which GPUs, and with what beside them."""
    facts: dict[str, Any] = {
        "owner": lease.owner.username,
        "flavor": lease.flavor.slug,
        "model": lease.flavor.model.slug,
        "image": lease.image.slug,
        "starts_at": lease.starts_at,
        "ends_at": lease.ends_at,
        "rate_per_hour": lease.rate_per_hour,
        "currency": lease.currency,
        "quoted_total": lease.quoted_total,
        "terms": terms,
        "project": lease.project,
        "cost_centre": lease.cost_centre,
        "zone": lease.tenant.timezone,
        "gpus": [str(gpu) for gpu in gpus],
    }
    if lease.with_home:
        facts["with_home"] = True
    if lease.snapshot_id:
        facts["snapshot"] = str(lease.snapshot_id)
    if lease.series_id:
        facts |= {"series": str(lease.series_id), "occurs_on": str(lease.occurs_on)}
    if lease.bound_to_id:
        facts["usb"] = devices.told(devices.orders_of(lease))
    return facts
