"""Any history of people, hosts, prices, outages and closed months: bills add up, and the log makes them.

Set LEASEHOLD_HISTORIES to try more of them, LEASEHOLD_FIRST_HISTORY to try others.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from django.db.models import Model

from hosts.models import Gpu, GpuModel, Host, StoragePool
from leasing import homes, policy
from leasing.actors import SYSTEM
from leasing.audit.verifier import verify_log
from leasing.billing.closing import close_month, months_due
from leasing.billing.outages import leases_in, record_outage, withdraw_outage
from leasing.billing.prices import set_discount, set_rate, set_storage_rate, set_tax
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.errors import WrongState
from leasing.fsck import run_checks
from leasing.models import (
    HomeVolume,
    Invoice,
    InvoiceLine,
    Lease,
    NumberSeries,
    Outage,
    Tenant,
    UsageSegment,
)
from leasing.pricing import quote_lease
from leasing.tags import set_tags
from tests.domain.test_histories import History
from tests.world import person

pytestmark = pytest.mark.django_db
HISTORIES = int(os.environ.get("LEASEHOLD_HISTORIES", "2"))
# In which something is paid, credited and kept.
TELLING = 1
FIRST = int(os.environ.get("LEASEHOLD_FIRST_HISTORY", str(TELLING)))
STEPS = 26
# Two days before the clocks are put forward in Europe, four before the month is over.
START = datetime(2026, 3, 27, 18, tzinfo=UTC)
HOURS = (0.25, 1, 3, 9, 26)


class BillHistory(History):
    """The same, over the turn of a month and of the clock, with somebody who changes the prices."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        Tenant.objects.update(concurrent_gpus=9)
        self.world.now = START
        pool = StoragePool.objects.create(name="studio")
        Host.objects.update(pool=pool)
        self.petra = person("petra")
        policy.grant_global_role(actor=SYSTEM, person=self.petra, role="platform-finance", now=self.world.now)
        for tenant, zone in ((self.world.studio, "Europe/Berlin"), (self.world.research, "Asia/Shanghai")):
            Tenant.objects.filter(pk=tenant.pk).update(timezone=zone)
            tenant.refresh_from_db()
        self.acts = [
            (8, self.book),
            (1, self.repeat),
            (1, self.end),
            (3, self.change_end),
            (6, self.pass_time),
            (2, self.host.work),
            (1, self.host.fall_silent),
            (1, self.host.repeat),
            (1, self.host.lose_journal),
            (2, self.change_price),
            (2, self.fail_us),
            (1, self.withdraw),
            (1, self.remove_home),
            (2, self.close),
            (1, self.tag),
        ]

    def book(self) -> None:
        who, tenant = self.dice.choice(
            [(self.world.ada, self.world.studio), (self.world.bob, self.world.research)]
        )
        starts_at = self.world.now + timedelta(hours=self.dice.choice([0, 0, 0, 1, 30]))
        what: dict[str, Any] = {
            "tenant": tenant,
            "flavor": self.dice.choice([self.world.flavor, self.pair]),
            "starts_at": starts_at,
            "ends_at": starts_at + timedelta(hours=self.dice.choice(HOURS)),
            "now": self.world.now,
        }
        quoted = quote_lease(**what)
        lease = request_lease(
            actor=self.world.actor(who), image=self.world.image, with_home=self.dice.random() < 0.3, **what
        )
        assert lease.quoted_total == quoted.total
        self.settle()

    def pass_time(self) -> None:
        """Mostly the host is heard meanwhile and does as it is told; what is due is done in any case."""
        self.world.now += timedelta(hours=self.dice.choice(HOURS), seconds=self.dice.random() * 100)
        self.host.honest = self.dice.random() < 0.7
        if self.host.honest:
            self.host.work()
        self.settle()

    def come_to_an_end(self) -> None:
        """Nobody needs anything any more; then the host lets go of what there is."""
        for lease in Lease.objects.exclude(state__in=["ended", "releasing"]):
            end_lease(actor=self.world.actor(lease.owner), lease_id=lease.pk, now=self.world.now)
        super().come_to_an_end()

    def admit_late(self) -> None:
        """An outage in the middle of something that was paid long ago."""
        paid = [*InvoiceLine.objects.filter(cause="use", seconds__gt=60).order_by("pk")]
        if not paid:
            return
        line = self.dice.choice(paid)
        record_outage(
            actor=SYSTEM,
            what=self.dice.choice([gpu for gpu in self.world.gpus if gpu.holds.filter(lease=line.lease_id)]),
            starts_at=line.starts_at + timedelta(seconds=self.dice.random() * 30),
            ends_at=line.ends_at - timedelta(seconds=self.dice.random() * 30),
            reason="dust",
            now=self.world.now,
        )

    def settle(self) -> None:
        for _ in range(3):
            self.world.tick(after=timedelta(seconds=1))
            self.host.work()

    def change_price(self) -> None:
        actor, now = self.world.actor(self.petra), self.world.now + timedelta(seconds=1)
        percent = Decimal(self.dice.randrange(0, 4000)) / 100
        match self.dice.randrange(4):
            case 0:
                peak = sorted(self.dice.sample(range(25), 2))
                set_rate(
                    actor=actor,
                    flavor=self.dice.choice([self.world.flavor, self.pair]),
                    per_hour=Decimal(self.dice.randrange(99999)) / 10000,
                    off_peak_per_hour=self.dice.choice([None, Decimal(self.dice.randrange(99999)) / 10000]),
                    currency=self.dice.choice(["EUR", "EUR", "EUR", "JPY"]),
                    peak_days=self.dice.choice(["12345", "67", "1234567"]),
                    peak_from_hour=peak[0],
                    peak_until_hour=peak[1],
                    peak_zone=self.dice.choice(["UTC", "Europe/Berlin", "Asia/Kolkata"]),
                    reserved_hours=self.dice.choice([0, 24]),
                    reserved_percent=Decimal(0),
                    now=now,
                ) if self.dice.random() < 0.5 else set_rate(
                    actor=actor, flavor=self.world.flavor, per_hour=Decimal("3.33"), currency="EUR",
                    reserved_hours=1, reserved_percent=percent, now=now,
                )  # fmt: skip
            case 1:
                tenant = self.dice.choice([self.world.studio, self.world.research])
                set_discount(actor=actor, tenant=tenant, percent=percent, now=now)
            case 2:
                per_gib_month = Decimal(self.dice.randrange(99999)) / 10000
                set_storage_rate(actor=actor, per_gib_month=per_gib_month, currency="EUR", now=now)
            case _:
                set_tax(actor=actor, label="VAT", percent=percent, now=now)

    def fail_us(self) -> None:
        gpu = self.dice.choice(self.world.gpus)
        things: list[Host | Gpu | GpuModel] = [gpu, gpu.host, self.world.model]
        length = timedelta(hours=self.dice.choice(HOURS), seconds=self.dice.random())
        ends_at = self.world.now - timedelta(hours=self.dice.choice([0, 0, 3, 60]))
        record_outage(
            actor=self.world.actor(self.world.operator),
            what=self.dice.choice(things),
            starts_at=ends_at - length,
            ends_at=ends_at,
            reason="dust",
            now=self.world.now,
        )

    def withdraw(self) -> None:
        """It was none after all: that can be said until it is on an invoice."""
        standing = [*Outage.objects.filter(withdrawn_at=None).order_by("pk")]
        if not standing:
            return
        outage, actor = self.dice.choice(standing), self.world.actor(self.world.operator)
        with suppress(WrongState):
            withdraw_outage(actor=actor, outage_id=outage.pk, reason="it worked", now=self.world.now)

    def remove_home(self) -> None:
        kept = [*HomeVolume.objects.filter(state="detached").order_by("created_at")]
        if kept:
            volume = self.dice.choice(kept)
            actor = self.world.actor(volume.person)
            homes.remove_volume(actor=actor, volume_id=volume.pk, now=self.world.now)

    def close(self) -> None:
        for tenant in (self.world.studio, self.world.research):
            self.close_what_is_due(tenant)

    def close_what_is_due(self, tenant: Tenant) -> None:
        for month in months_due(tenant, now=self.world.now):
            close_month(actor=SYSTEM, tenant=tenant, name=month, now=self.world.now)

    def tag(self) -> None:
        lease = self.any_lease()
        project = self.dice.choice(["", "film", "game"])
        set_tags(
            actor=self.world.actor(lease.owner), lease_id=lease.pk, project=project, cost_centre="",
            now=self.world.now,
        )  # fmt: skip


def money() -> list[list[Any]]:
    tables: tuple[type[Model], ...] = (Invoice, InvoiceLine, NumberSeries)
    return [list(table._default_manager.order_by("pk").values()) for table in tables]


def check_each_second_is_paid_once() -> int:
    """Of use that was no outage, by looking at intervals alone; how many seconds those were."""
    found = 0
    for lease in Lease.objects.exclude(active_at=None):
        assert lease.active_at is not None
        assert lease.stopped_at is not None
        begin, end = max(lease.active_at, lease.starts_at), min(lease.stopped_at, lease.ends_at)
        free: list[tuple[datetime, datetime]] = []
        for outage in sorted(Outage.objects.filter(withdrawn_at=None), key=lambda one: one.starts_at):
            if lease in leases_in(outage):
                since = max(outage.starts_at, begin, *(until for _since, until in free))
                if since < min(outage.ends_at, end):
                    free.append((since, min(outage.ends_at, end)))
        due = seconds(begin, end) - sum(seconds(*span) for span in free)
        lines = InvoiceLine.objects.filter(lease=lease, cause="use")
        assert sum(line.seconds for line in lines) == due, lease
        found += due
    return found


def seconds(begin: datetime, end: datetime) -> int:
    return max(0, int(end.timestamp()) - int(begin.timestamp()))


@pytest.mark.timeout(max(120, 12 * HISTORIES))
def test_every_bill_adds_up_and_follows_from_the_log() -> None:
    paid = credited = kept = 0
    for seed in range(FIRST, FIRST + HISTORIES):
        savepoint = transaction.savepoint()
        settings.AUDIT_ANCHOR_FILE.unlink(missing_ok=True)
        history = BillHistory(seed)
        history.live(STEPS)
        assert run_checks(history.world.now) == [], (seed, history.told)
        history.come_to_an_end()
        history.world.now = datetime(2026, 6, 3, tzinfo=UTC)
        history.world.host.inventory(*(gpu.address for gpu in history.world.gpus), at=history.world.now)
        history.close()
        history.admit_late()
        closed = money()
        history.close()
        for tenant in (history.world.studio, history.world.research):
            for month in ("2026-03", "2026-04", "2026-05"):
                close_month(actor=SYSTEM, tenant=tenant, name=month, now=history.world.now)
        assert money() == closed, (seed, history.told)
        assert not UsageSegment.objects.filter(line=None).exclude(ends_at=None).exists(), (seed, history.told)
        assert run_checks(history.world.now) == [], (seed, history.told)
        assert verify_log().problems == []
        paid += check_each_second_is_paid_once()
        kept += InvoiceLine.objects.filter(cause="stored").count()
        credited += Invoice.objects.filter(kind="credit").count()
        transaction.savepoint_rollback(savepoint)
    if HISTORIES >= 2 and FIRST == TELLING:
        assert paid > 0, "what is drawn differs from run to run"
        assert credited > 0
        assert kept > 0
