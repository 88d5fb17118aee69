"""What one lease costs."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from leasing.metering import lease_amount
from leasing.models import Lease


def lease_cost(lease: Lease, *, now: datetime) -> Decimal:
    """What the lease costs, up to `now` if it still runs, in its currency."""
    return lease_amount(lease.segments.all(), now)
