"""After the database was restored from a backup: hosts know more than it does, and are asked first.

What a host has reported meanwhile was receipted, and is gone. So its journal is over: until it has begun
another, no order reaches it, since each names a journal that it does not have, and nothing that it says is
believed.
"""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from hosts.models import Host
from leasing.actors import SYSTEM
from leasing.audit.log import record
from leasing.locking import locked
from leasing.models import Lease
from leasing.reports.inbox import distrust_gpus
from leasing.states.lease import ON_HOST
from leasing.transactions import atomically

REASON = "The portal was restored from a backup."


@atomically
def begin_anew(*, now: datetime) -> list[Lease]:
    """Trust no host's journal and no GPU any more. Returns the leases that were on a host at the backup."""
    for host in locked(Host.objects.filter(retired_at=None).order_by("id")):
        lost, host.journal_id, host.applied_sequence = host.journal_id, uuid4(), 0
        host.last_seen_at = None
        host.save(update_fields=["journal_id", "applied_sequence", "last_seen_at"])
        distrust_gpus(host, reason=REASON, now=now)
        record(
            action="host.journal",
            actor=SYSTEM,
            subject=f"host:{host.pk}",
            now=now,
            journal=str(host.journal_id),
            lost=str(lost or ""),
            reason=REASON,
        )
    leases = Lease.objects.filter(state__in=ON_HOST).select_related("tenant", "owner", "host")
    return list(leases.order_by("ends_at", "pk"))
