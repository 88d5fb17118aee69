"""A system that has worked for a while, for the tests that then break it."""

from __future__ import annotations

from datetime import time, timedelta
from typing import Any

from django.db import connection

from hosts.models import Gpu
from hosts.protocol import messages as m
from leasing.actors import SYSTEM
from leasing.approval import approve_lease
from leasing.audit.log import record
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.guards import guards_of
from leasing.models import Flavor, Lease, Series
from leasing.recurrence import Pattern
from leasing.series import book_series
from leasing.waitlist import claim_offer, join_waitlist
from tests.world import World

HOUR = timedelta(hours=1)


class Story:
    """What has ended, runs, was approved and waits, is asked for, is repeated; and a line of two."""

    def __init__(self) -> None:
        self.world = World(gpus=5, concurrent_gpus=2)
        self.over = self._book(hours=1)
        self._bring_up(self.over)
        self.world.tick(after=HOUR)
        release = self.world.command(self.over, "release")
        self.world.now += timedelta(seconds=20)
        self.world.host.say(m.MachineGone(lease_id=self.over.pk), at=self.world.now, command=release)
        for hold in self.over.holds.all():
            self.world.scrub(self.world.host, hold.gpu, lease=self.over)
        self.running = self._book(hours=8)
        self._bring_up(self.running)
        self.auto = self._book(hours=2)
        self.approved = self._book(hours=3, start=timedelta(minutes=30))
        approver = self.world.actor(self.world.approver)
        approve_lease(actor=approver, lease_id=self.approved.pk, now=self.world.now)
        self.asked = self._book(hours=1, start=timedelta(minutes=40))
        self.series = self._repeat()
        self.world.tick()
        self._wait()
        for lease in (self.over, self.running, self.auto, self.approved, self.asked):
            lease.refresh_from_db()

    def _book(self, *, hours: int, start: timedelta | None = None) -> Lease:
        starts_at = self.world.now + start if start else None
        return request_lease(
            actor=self.world.actor(self.world.ada),
            tenant=self.world.studio,
            flavor=self.world.flavor,
            image=self.world.image,
            starts_at=starts_at,
            ends_at=(starts_at or self.world.now) + hours * HOUR,
            now=self.world.now,
        )

    def _wait(self) -> None:
        """All GPUs come free tomorrow: the first in line claims one, which is in the way of the second."""
        world, tomorrow = self.world, self.world.now + timedelta(hours=24)
        whole = Flavor.objects.create(slug="whole", name="Whole", model=world.model, gpu_count=5)
        world.price(whole)
        bob = world.actor(world.bob)
        booked = request_lease(
            actor=bob,
            tenant=world.research,
            flavor=whole,
            image=world.image,
            starts_at=tomorrow,
            ends_at=tomorrow + 4 * HOUR,
            now=world.now,
        )
        self.first, self.second = (
            join_waitlist(
                actor=bob,
                tenant=world.research,
                flavor=flavor,
                image=world.image,
                duration=4 * HOUR,
                earliest=tomorrow,
                deadline=tomorrow + 4 * HOUR,
                now=now,
            )
            for flavor, now in ((world.flavor, world.now), (whole, world.now + timedelta(seconds=1)))
        )
        end_lease(actor=bob, lease_id=booked.pk, now=world.now)
        world.tick()
        self.claimed = claim_offer(actor=bob, entry_id=self.first.pk, now=world.now)

    def _repeat(self) -> Series:
        """Three days, the second of them left out."""
        first_on = self.world.now.date() + timedelta(days=7)
        pattern = Pattern(
            weekdays=frozenset(range(1, 8)),
            starts=time(9),
            ends=time(10),
            zone="UTC",
            first_on=first_on,
            last_on=first_on + timedelta(days=2),
        )
        return book_series(
            actor=self.world.actor(self.world.ada),
            tenant=self.world.studio,
            flavor=self.world.flavor,
            image=self.world.image,
            pattern=pattern,
            without=[first_on + timedelta(days=1)],
            now=self.world.now,
        )

    def _bring_up(self, lease: Lease) -> None:
        self.world.tick()
        command = self.world.command(lease, "provision")
        self.world.host.say(m.Accepted(), at=self.world.now, command=command)
        self.world.host.say(m.MachineRunning(lease_id=lease.pk), at=self.world.now, command=command)

    @property
    def gpu(self) -> Gpu:
        return self.running.holds.get().gpu

    def only(self, lease: Lease, **change: object) -> None:
        Lease.objects.filter(pk=lease.pk).update(**change)

    def unguard(self) -> None:
        connection.check_constraints()  # PostgreSQL alters no table whose references are still to be checked
        with connection.cursor() as cursor:
            for guard in guards_of(connection):
                if guard.kind == "TRIGGER":
                    on_table = f" ON {guard.table}" if connection.vendor == "postgresql" else ""
                    cursor.execute(f"DROP TRIGGER {guard.name}{on_table}")
                else:
                    cursor.execute(f"ALTER TABLE {guard.table} DROP CONSTRAINT {guard.name}")

    def told(self, subject: object, action: str, **detail: Any) -> None:
        record(action=action, actor=SYSTEM, subject=str(subject), now=self.world.now, **detail)
