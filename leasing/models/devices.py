"""USB devices that people choose with their leases."""

from __future__ import annotations

from django.db import models

from hosts.models import UsbDevice
from leasing.models.leases import Lease


class LeaseDevice(models.Model):
    """The lease's machine is given this very device, as long as the lease has its GPUs."""

    lease = models.ForeignKey(Lease, models.CASCADE, related_name="devices", db_index=False)
    device = models.ForeignKey(UsbDevice, models.PROTECT, related_name="leases")

    class Meta:
        ordering = ["device"]
        constraints = [models.UniqueConstraint(fields=["lease", "device"], name="leasing_leasedevice_once")]

    def __str__(self) -> str:
        return f"{self.device_id} of {self.lease_id}"
