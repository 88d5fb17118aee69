"""A world with somebody who manages its money: leases that are used for so long, months that are closed."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from hosts.protocol import messages as m
from leasing import policy
from leasing.actors import SYSTEM
from leasing.billing.closing import Closed, close_month
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.models import Invoice, InvoiceLine, Lease, Tenant
from tests.world import START, World, person

HOUR = timedelta(hours=1)


class Office(World):
    """Two teams: one in Berlin, one in Shanghai."""

    def __init__(self, *, start: datetime = START, gpus: int = 2) -> None:
        super().__init__(start=start, gpus=gpus)
        self.petra = person("petra")
        policy.grant_global_role(actor=SYSTEM, person=self.petra, role="platform-finance", now=self.now)
        for tenant, zone in ((self.studio, "Europe/Berlin"), (self.research, "Asia/Shanghai")):
            Tenant.objects.filter(pk=tenant.pk).update(timezone=zone)
            tenant.refresh_from_db()

    def book(self, hours: float, *, after: timedelta = timedelta(0), **facts: Any) -> Lease:
        starts_at = self.now + after
        return request_lease(
            actor=self.actor(self.ada),
            tenant=self.studio,
            flavor=self.flavor,
            image=self.image,
            starts_at=starts_at,
            ends_at=starts_at + timedelta(hours=hours),
            now=self.now,
            **facts,
        )

    def use(self, hours: float, **facts: Any) -> Lease:
        """Booked, used to its end, and gone."""
        self.hear()
        lease = self.book(hours, **facts)
        self.start(lease)
        self.tick(after=timedelta(hours=hours))
        return self.finish(lease)

    def give_back(self, lease: Lease) -> Lease:
        end_lease(actor=self.actor(self.ada), lease_id=lease.pk, now=self.now)
        return self.finish(lease)

    def finish(self, lease: Lease) -> Lease:
        """Its host lets the machine go and cleans the GPU."""
        self.tick()
        self.host.say(m.MachineGone(lease_id=lease.pk), at=self.now, command=self.command(lease, "release"))
        for hold in lease.holds.all():
            self.scrub(self.host, hold.gpu, lease=lease)
        lease.refresh_from_db()
        return lease

    def hear(self) -> None:
        """The host says that all is well."""
        self.host.inventory(*(gpu.address for gpu in self.gpus), at=self.now)

    def close(self, month: str, tenant: Tenant | None = None) -> Closed:
        actor = self.actor(self.petra)
        return close_month(actor=actor, tenant=tenant or self.studio, name=month, now=self.now)


def amounts(invoice: Invoice) -> list[tuple[int, Decimal]]:
    return list(invoice.lines.values_list("seconds", "amount"))


def lines(invoice: Invoice) -> list[InvoiceLine]:
    return list(invoice.lines.all())
