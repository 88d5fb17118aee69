"""Rows to stand on for tests of single rules, written directly: nothing here passes through a service."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hosts.models import Gpu, GpuModel, Host
from leasing.models import Flavor, Image, Lease, Person, Tenant, WaitlistEntry
from leasing.openings.upkeep import rebuild

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class Ground:
    """One tenant, one person, one host with two GPUs, one flavor; leases as many as a test wants."""

    def __init__(self) -> None:
        self.now = NOW
        self._numbers = itertools.count(1)
        self.tenant = Tenant.objects.create(slug="studio", name="Studio", concurrent_gpus=9)
        self.person = Person.objects.create(username="ada", email="ada@example.org")
        self.model = GpuModel.objects.create(
            slug="a6000", name="A6000", memory_mib=64, vendor_device="10de:2230"
        )
        self.flavor = Flavor.objects.create(slug="studio", name="Studio A6000", model=self.model)
        self.image = Image.objects.create(
            slug="tenant",
            name="Tenant",
            os_family="linux",
            format="direct-kernel",
            digest="ef" * 32,
            file_name="tenant",
        )
        self.host = Host.objects.create(
            name="hv1", account="hv1", signing_key="00" * 32, key_id="00" * 8, sealing_key="00" * 32
        )
        self.gpu, self.other_gpu = self._gpu(), self._gpu()
        rebuild(self.host.pk)

    def _gpu(self) -> Gpu:
        return Gpu.objects.create(
            host=self.host,
            model=self.model,
            address=f"0000:{next(self._numbers):02x}:00.0",
            state_since=NOW,
            share_vcpus=4,
            share_memory_mib=4096,
            share_disk_gib=50,
        )

    def waiting(self, **fields: Any) -> WaitlistEntry:
        facts: dict[str, Any] = {
            "tenant": self.tenant,
            "owner": self.person,
            "flavor": self.flavor,
            "image": self.image,
            "duration": timedelta(hours=4),
            "earliest_at": NOW,
            "last_start_at": NOW,
            "joined_at": NOW,
            "rank_at": NOW,
        }
        return WaitlistEntry.objects.create(**{**facts, **fields})

    def lease(self, **fields: Any) -> Lease:
        facts: dict[str, Any] = {
            "tenant": self.tenant,
            "owner": self.person,
            "flavor": self.flavor,
            "image": self.image,
            "state": "scheduled",
            "state_since": NOW,
            "requested_at": NOW,
            "starts_at": NOW,
            "ends_at": NOW + timedelta(hours=4),
            "rate_per_hour": Decimal("3.8000"),
            "currency": "EUR",
            "quoted_total": Decimal("15.20"),
        }
        return Lease.objects.create(**{**facts, **fields})
