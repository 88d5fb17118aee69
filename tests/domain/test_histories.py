"""Any history of people and hosts: nothing is ever found wrong, and everything comes to its end.

Set LEASEHOLD_HISTORIES to try more of them, LEASEHOLD_FIRST_HISTORY to try others.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction

from hosts.models import Gpu
from leasing.approval import approve_lease, approve_series, reject_lease, reject_series, revoke_approval
from leasing.booking import request_lease
from leasing.changing import change_end, change_window
from leasing.ending import end_lease, end_series
from leasing.errors import DomainError, NothingFree, WrongState
from leasing.fleet import readmit_gpu, withdraw_gpu
from leasing.fsck import run_checks
from leasing.goals import PowerAction
from leasing.maintenance.plan import Unmovable
from leasing.maintenance.service import drain, lift_closure, open_closures, preview_drain
from leasing.models import Flavor, Lease, Series, WaitlistEntry
from leasing.other_time import other_time
from leasing.power import switch_power
from leasing.quota_setting import put_limit
from leasing.recurrence import EVERY_DAY, Pattern
from leasing.series import book_series
from leasing.series_plan import preview_series
from leasing.waitlist import claim_offer, decline_offer, join_waitlist, leave_waitlist
from tests.acting_host import ActingHost
from tests.world import World

pytestmark = pytest.mark.django_db
HISTORIES = int(os.environ.get("LEASEHOLD_HISTORIES", "8"))
FIRST = int(os.environ.get("LEASEHOLD_FIRST_HISTORY", "0"))
STEPS, CHECKED = 25, 5  # so many acts, and so many of them until all is looked over again
SPANS = [timedelta(seconds=s) for s in (1, 20, 90, 400, 1000, 2000, 3700, 8000)]


class History:
    """A world and the dice that say what happens in it next."""

    def __init__(self, seed: int) -> None:
        self.seed, self.dice = seed, random.Random(seed)
        self.world = World(gpus=self.dice.choice([2, 3]), concurrent_gpus=self.dice.choice([0, 2, 2, 3]))
        self.pair = Flavor.objects.create(slug="pair", name="Pair", model=self.world.model, gpu_count=2)
        self.world.price(self.pair)
        self.host = ActingHost(self.world, self.dice)
        self.told: list[str] = []
        self.acts: list[tuple[int, Callable[[], object]]] = [
            (5, self.book),
            (2, self.repeat),
            (3, self.decide),
            (1, self.decide_all),
            (1, self.end),
            (2, self.change_end),
            (2, self.move),
            (4, self.wait),
            (2, self.give_up),
            (3, self.answer),
            (1, self.limit),
            (2, self.switch),
            (8, self.pass_time),
            (14, self.host.work),
            (1, self.host.fall_silent),
            (1, self.host.repeat),
            (1, self.host.lose_journal),
            (1, self.fleet),
            (1, self.maintain),
        ]

    def live(self, steps: int) -> None:
        weights = [weight for weight, _ in self.acts]
        for step in range(steps):
            if step % CHECKED == 0:
                self.look_over()
            act = self.dice.choices(self.acts, weights)[0][1]
            self.told.append(act.__name__)
            try:
                with transaction.atomic():
                    act()
            except DomainError as error:
                self.told.append(f"  refused: {error}")

    def look_over(self) -> None:
        assert run_checks(self.world.now) == [], (self.seed, self.told)

    def book(self) -> None:
        who, tenant = self.dice.choice(
            [(self.world.ada, self.world.studio), (self.world.bob, self.world.research)]
        )
        starts_at = self.world.now + self.dice.choice([timedelta(0)] * 8 + SPANS)
        request_lease(
            actor=self.world.actor(who),
            tenant=tenant,
            flavor=self.dice.choice([self.world.flavor, self.pair]),
            image=self.world.image,
            starts_at=starts_at,
            ends_at=starts_at + self.dice.choice(SPANS[2:]),
            now=self.world.now,
        )

    def repeat(self) -> None:
        """For some days in a row, without the dates that cannot be had."""
        begin = self.world.now + self.dice.choice([timedelta(0), *SPANS])
        end = begin + self.dice.choice(SPANS[3:])
        asked: dict[str, Any] = {
            "actor": self.world.actor(self.world.ada),
            "tenant": self.world.studio,
            "flavor": self.dice.choice([self.world.flavor, self.pair]),
            "pattern": Pattern(
                weekdays=EVERY_DAY,
                starts=begin.time().replace(second=0),
                ends=end.time().replace(second=0),
                zone="UTC",
                first_on=begin.date(),
                last_on=begin.date() + timedelta(days=self.dice.randrange(3)),
            ),
            "now": self.world.now,
        }
        lost = [one.occurrence.day for one in preview_series(**asked).lost]
        book_series(image=self.world.image, without=lost, **asked)

    def decide_all(self) -> None:
        """On all of a series, or its owner cancels what of it is ahead."""
        series = self.dice.choice([*Series.objects.order_by("pk"), None])
        if series is None:
            return
        acting: dict[str, Any] = {"series_id": series.pk, "now": self.world.now}
        match self.dice.randrange(3):
            case 0:
                approve_series(actor=self.world.actor(self.world.approver), **acting)
            case 1:
                reject_series(actor=self.world.actor(self.world.approver), note="No.", **acting)
            case _:
                end_series(actor=self.world.actor(series.owner), **acting)

    def decide(self) -> None:
        lease, approver = self.any_lease(), self.world.actor(self.world.approver)
        shorter = lease.starts_at + (lease.ends_at - lease.starts_at) / 2
        match self.dice.randrange(10):
            case 0 | 1:
                reject_lease(actor=approver, lease_id=lease.pk, note="No.", now=self.world.now)
            case 2:
                revoke_approval(actor=approver, lease_id=lease.pk, note="No.", now=self.world.now)
            case 3 | 4:
                approve_lease(actor=approver, lease_id=lease.pk, ends_at=shorter, now=self.world.now)
            case _:
                approve_lease(actor=approver, lease_id=lease.pk, now=self.world.now)

    def change_end(self) -> None:
        lease = self.any_lease()
        ends_at = lease.ends_at + self.dice.choice([1, 1, -1]) * self.dice.choice(SPANS[2:])
        change_end(
            actor=self.world.actor(lease.owner), lease_id=lease.pk, ends_at=ends_at, now=self.world.now
        )

    def move(self) -> None:
        """To the time that was said to be free, or to one that was not."""
        lease = self.any_lease()
        starts_at = self.world.now + self.dice.choice(SPANS)
        window = {"starts_at": starts_at, "ends_at": starts_at + self.dice.choice(SPANS[2:])}
        is_free = other_time(lease, **window, now=self.world.now).instead is None
        with nothing_free_unless(is_free):
            change_window(
                actor=self.world.actor(lease.owner), lease_id=lease.pk, **window, now=self.world.now
            )

    def wait(self) -> None:
        """For about when somebody has something, so that it seldom fits at once."""
        duration, earliest = self.dice.choice(SPANS[4:]), max(self.any_lease().starts_at, self.world.now)
        join_waitlist(
            actor=self.world.actor(self.world.ada),
            tenant=self.world.studio,
            flavor=self.dice.choice([self.world.flavor, self.pair, self.pair]),
            image=self.world.image,
            duration=duration,
            earliest=earliest,
            deadline=earliest + duration + self.dice.choice(SPANS[:3]),
            now=self.world.now,
        )

    def give_up(self) -> None:
        """Somebody ends something, and the line is shown what came free."""
        with suppress(DomainError), transaction.atomic():
            self.end()
        self.world.tick()

    def answer(self) -> None:
        """What is offered is claimed or declined, or the line is left."""
        waiting = WaitlistEntry.objects.filter(closed_at=None).order_by("joined_at")
        entry = self.dice.choice([*(waiting.filter(offers__state="offered") or waiting), None])
        if entry is None:
            return
        answer = self.dice.choice([claim_offer, claim_offer, decline_offer, leave_waitlist])
        answer(actor=self.world.actor(entry.owner), entry_id=entry.pk, now=self.world.now)

    def limit(self) -> None:
        """A limit of the team or a person is set, or lifted."""
        put_limit(
            actor=self.world.actor(self.world.approver),
            tenant=self.world.studio,
            username=self.dice.choice(["", "ada"]),
            kind=self.dice.choice(["gpus", "gpu-hours", "longest", "ahead"]),
            value=self.dice.choice([Decimal(0), Decimal(1), Decimal(4), None]),
            now=self.world.now,
        )

    def end(self) -> None:
        lease = self.any_lease()
        end_lease(actor=self.world.actor(lease.owner), lease_id=lease.pk, now=self.world.now)

    def switch(self) -> None:
        lease = self.any_lease()
        action: PowerAction = self.dice.choice(["on", "off", "restart"])
        switch_power(
            actor=self.world.actor(lease.owner),
            lease_id=lease.pk,
            action=action,
            now=self.world.now,
        )

    def fleet(self) -> None:
        operator, gpu = self.world.actor(self.world.operator), self.dice.choice(list(Gpu.objects.all()))
        if self.dice.random() < 0.25:
            withdraw_gpu(actor=operator, gpu_id=gpu.pk, reason="dust", now=self.world.now)
        else:
            readmit_gpu(actor=operator, gpu_id=gpu.pk, now=self.world.now)

    def maintain(self) -> None:
        """Close a GPU or the host for a while, or lift what is closed."""
        now, gpu = self.world.now, self.dice.choice(list(Gpu.objects.all()))
        acting: dict[str, Any] = {"actor": self.world.actor(self.world.operator), "now": now}
        closed = open_closures(now=now).first()
        if closed is not None and self.dice.random() < 0.5:
            lift_closure(closure_id=closed.pk, **acting)
            return
        starts_at = now + self.dice.choice([timedelta(0), *SPANS])
        acting |= {
            "what": self.dice.choice([gpu, gpu, gpu.host]),
            "starts_at": starts_at,
            "ends_at": starts_at + self.dice.choice(SPANS[2:]),
            "unmovable": self.dice.choice(list(Unmovable)),
        }
        drain(seen=preview_drain(**acting).seen, reason="dust", **acting)

    def pass_time(self) -> None:
        self.world.tick(after=self.dice.choice(SPANS))

    def any_lease(self) -> Lease:
        leases = list(Lease.objects.exclude(state="ended").order_by("pk"))
        if not leases:
            raise DomainError("nobody has booked")
        return self.dice.choice(leases)

    def come_to_an_end(self) -> None:
        """Everybody does their duty for a day, and gives up what would be later."""
        self.host.behave()
        for series in Series.objects.all():
            with suppress(WrongState):
                actor = self.world.actor(series.owner)
                end_series(actor=actor, series_id=series.pk, now=self.world.now)
        for _ in range(40):
            self.host.work()
            self.world.tick(after=timedelta(minutes=20))
            if not Lease.objects.exclude(state="ended").exists():
                break
        for _ in range(6):
            self.host.work()
            self.world.tick(after=timedelta(minutes=31))


@contextmanager
def nothing_free_unless(is_free: bool) -> Iterator[None]:
    """What was said to be free is not refused as taken, and what was not is not given."""
    try:
        yield
    except NothingFree:
        assert not is_free
        raise
    assert is_free


@pytest.mark.timeout(max(120, 3 * HISTORIES))
def test_every_history_is_in_order_and_ends() -> None:
    for seed in range(FIRST, FIRST + HISTORIES):
        savepoint = transaction.savepoint()
        settings.AUDIT_ANCHOR_FILE.unlink(missing_ok=True)
        history = History(seed)
        history.live(STEPS)
        history.look_over()
        history.come_to_an_end()
        history.look_over()
        left = Lease.objects.exclude(state="ended").values_list("pk", "state", "ends_at")
        assert list(left) == [], (seed, history.told)
        stuck = Gpu.objects.filter(state__in=["leased", "dirty", "scrubbing"])
        assert list(stuck.values_list("pk", "state", "scrub_expected_by")) == [], (seed, history.told)
        transaction.savepoint_rollback(savepoint)
