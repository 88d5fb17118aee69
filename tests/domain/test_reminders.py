"""The ladder of warnings: each rung once, the nearest only, anew after a new end."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.protocol import messages as m
from leasing.booking import request_lease
from leasing.changing import change_end
from leasing.fsck import run_checks
from leasing.models import Lease, Notification, OutboxMessage
from leasing.reminders import LADDER, rung_due
from tests.world import START, World

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@given(st.integers(1, 3000), st.lists(st.integers(1, 300), max_size=40))
def test_no_rung_is_told_twice_and_none_that_is_longer_than_the_lease(length: int, steps: list[int]) -> None:
    now, ends_at = START, START + length * MINUTE
    told: list[timedelta] = []
    for step in steps:
        now += step * MINUTE
        last = int(told[-1].total_seconds()) if told else None
        rung = rung_due(starts_at=START, ends_at=ends_at, warned_at_seconds=last, now=now)
        if rung is not None:
            told.append(rung)
            assert now < ends_at
            assert ends_at - now <= rung < length * MINUTE
            assert all(ends_at - now > nearer for nearer in LADDER if nearer < rung)
    assert told == sorted(set(told), reverse=True)


def warnings(lease: Lease) -> int:
    return Notification.objects.filter(lease=lease, kind="lease-ends-soon").count()


@pytest.mark.django_db
def test_the_owner_is_told_on_each_rung_and_again_after_an_extension() -> None:
    world = World(gpus=1)
    lease = request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=None, ends_at=world.now + 30 * HOUR, now=world.now,
    )  # fmt: skip
    world.tick()
    order = world.command(lease, "provision")
    world.host.say(m.Accepted(), at=world.now, command=order)
    world.host.say(m.MachineRunning(lease_id=lease.pk), at=world.now, command=order)
    for after, count in ((HOUR, 0), (6 * HOUR, 1), (HOUR, 1), (21 * HOUR + 15 * MINUTE, 2), (MINUTE, 2)):
        world.tick(after=after)
        assert warnings(lease) == count
    change_end(actor=world.actor(world.ada), lease_id=lease.pk, ends_at=world.now + 26 * HOUR, now=world.now)
    update = OutboxMessage.objects.get(lease=lease, kind="update", answered_at=None)
    world.host.say(m.Accepted(), at=world.now, command=update)
    world.tick()
    assert warnings(lease) == 2
    world.tick(after=3 * HOUR)
    assert warnings(lease) == 3
    assert run_checks(world.now) == []
