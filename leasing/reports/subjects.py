"""A host may speak of its own GPUs and leases only."""

from __future__ import annotations

from uuid import UUID

from hosts.models import Gpu, Host
from leasing.locking import locked
from leasing.models import Lease


class NotTheirs(Exception):
    """The report is about something that the host does not have."""


def gpu_of(host: Host, gpu_id: UUID) -> Gpu:
    gpu = Gpu.objects.select_related("host", "model").filter(pk=gpu_id, host=host).first()
    if gpu is None:
        raise NotTheirs(f"{host.name} has no GPU {gpu_id}")
    return gpu


def lease_of(host: Host, lease_id: UUID) -> Lease:
    """The lease, locked: before its GPUs and its commands."""
    lease = locked(Lease.objects.select_related("tenant", "owner")).filter(pk=lease_id, host=host).first()
    if lease is None:
        raise NotTheirs(f"{host.name} has no lease {lease_id}")
    return lease
