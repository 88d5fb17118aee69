"""Repeated bookings with a home volume or from a snapshot: each date where its storage is, or else named."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from leasing.errors import InvalidRequest, WrongState
from leasing.fsck import run_checks
from leasing.models import Image, Lease, Series, Snapshot
from leasing.reasons import because
from leasing.recurrence import Pattern
from leasing.series import DatesLost, book_series
from leasing.series_plan import Plan, preview_series
from leasing.snapshots import remove_snapshot
from tests.domain.test_homes import a_world, give_pool
from tests.domain.test_homes import book as book_with_home
from tests.domain.test_series import WORKDAYS, book, theirs
from tests.domain.test_snapshots import a_kept_one
from tests.world import ScriptedHost, World

pytestmark = pytest.mark.django_db
DATES = 9
FRIDAY = date(2026, 3, 6)


def a_second_host(world: World, key: Any, *, pool: str | None) -> ScriptedHost:
    """With one GPU."""
    host = world.enrol("hv2")
    world.admit(host, 1)
    if pool:
        give_pool(host, pool, key)
    return host


def repeat(world: World, pattern: Pattern = WORKDAYS, **wanted: Any) -> Series:
    image = wanted.pop("image", world.image)
    return book_series(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=image,
        pattern=pattern, now=world.now, **wanted,
    )  # fmt: skip


def preview(world: World, **wanted: Any) -> Plan:
    return preview_series(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, pattern=WORKDAYS,
        now=world.now, **wanted,
    )  # fmt: skip


def hosts_of(series: Series) -> set[str]:
    return set(series.leases.values_list("holds__gpu__host__name", flat=True))


def reasons(plan: Plan) -> dict[date, list[Any]]:
    return {one.occurrence.day: one.obstacles for one in plan.lost}


def test_every_date_has_the_home_and_goes_where_its_pool_is() -> None:
    world, key = a_world(gpus=1)
    a_second_host(world, key, pool=None)
    assert len(preview(world, with_home=True).booked) == DATES
    series = repeat(world, with_home=True)
    assert set(series.leases.values_list("with_home", flat=True)) == {True}
    assert (series.leases.count(), hosts_of(series)) == (DATES, {world.host.row.name})
    assert hosts_of(book(world)) == {"hv2"}
    assert run_checks(world.now) == []


def test_before_there_is_a_volume_all_dates_go_to_one_pool() -> None:
    world, key = a_world(gpus=1)
    theirs(world, WORKDAYS.first_on)
    a_second_host(world, key, pool="other")
    series = repeat(world, with_home=True)
    assert hosts_of(series) == {"hv2"}


def test_a_date_on_which_its_pool_is_taken_is_lost_and_named_with_the_reason() -> None:
    world, key = a_world(gpus=1)
    theirs(world, FRIDAY)
    a_second_host(world, key, pool=None)
    assert reasons(preview(world)) == {}
    assert reasons(preview(world, with_home=True)) == {FRIDAY: [because("home-elsewhere")]}
    with pytest.raises(DatesLost) as refused:
        repeat(world, with_home=True)
    assert refused.value.days == [FRIDAY]
    assert not Lease.objects.filter(tenant=world.studio).exists()
    assert repeat(world, with_home=True, without=[FRIDAY]).leases.count() == DATES - 1


def test_a_date_on_which_another_workstation_has_the_home_is_lost() -> None:
    world, _key = a_world(gpus=2)
    other = book_with_home(world, start=timedelta(days=4), hours=2)
    assert other.starts_at.date() == FRIDAY
    named = because("home-is-booked", other=other.machine_name)
    assert reasons(preview(world, with_home=True)) == {FRIDAY: [named]}
    with pytest.raises(DatesLost) as refused:
        repeat(world, with_home=True)
    assert refused.value.days == [FRIDAY]
    repeat(world, with_home=True, without=[FRIDAY])
    with pytest.raises(InvalidRequest, match="is booked with"):
        book_with_home(world, start=timedelta(days=1), hours=2)


def test_a_series_without_anything_to_keep_goes_anywhere_beside_them() -> None:
    world, _key = a_world(gpus=2)
    book_with_home(world, start=timedelta(days=4), hours=2)
    assert repeat(world).leases.count() == DATES


def test_where_no_host_keeps_home_volumes_nothing_is_booked() -> None:
    world = World(gpus=1)
    with pytest.raises(InvalidRequest, match="keeps home volumes"):
        repeat(world, with_home=True)
    assert not Lease.objects.exists()


def test_every_disk_begins_as_the_snapshot_where_that_lies_and_the_snapshot_stays_till_then() -> None:
    world, key = a_world(gpus=1)
    snapshot = a_kept_one(world)
    a_second_host(world, key, pool="other")
    series = repeat(world, snapshot=snapshot)
    assert set(series.leases.values_list("snapshot", flat=True)) == {snapshot.pk}
    assert hosts_of(series) == {world.host.row.name}
    with pytest.raises(WrongState):
        remove_snapshot(actor=world.actor(world.ada), snapshot_id=snapshot.pk, now=world.now)


def test_a_snapshot_of_somebody_else_or_of_another_system_is_refused() -> None:
    world, _key = a_world(gpus=1)
    snapshot = a_kept_one(world)
    other = Image.objects.create(slug="other", name="Other", format=world.image.format, digest="0" * 64)
    with pytest.raises(InvalidRequest, match="boots in another way"):
        repeat(world, snapshot=snapshot, image=other)
    Snapshot.objects.update(person=world.bob)
    with pytest.raises(InvalidRequest, match="no such snapshot"):
        repeat(world, snapshot=snapshot)
