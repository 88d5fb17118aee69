"""Queries that are built once answer as the ORM does, whatever their values."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db.models import Q, QuerySet

from leasing.booking import request_lease
from leasing.fsck.bookings import openings_match_holds
from leasing.models import AuditEntry, Hold, Lease, Opening, Quota, Tenant
from leasing.openings.spans import micros
from leasing.prepared import NOBODY, Prepared, change, insert, inserting
from leasing.quotas import _uses
from leasing.spent import _spent
from leasing.statements import ask_joined, columns_of
from tests.world import World

HOUR = timedelta(hours=1)


@pytest.fixture
def world(db: None) -> World:
    return World(gpus=4, concurrent_gpus=8)


def book(world: World, *, after: timedelta = HOUR) -> Lease:
    return request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=world.now + after, ends_at=world.now + after + HOUR, now=world.now,
    )  # fmt: skip


@pytest.mark.parametrize("build", [_uses, _spent])
def test_a_query_answers_as_the_orm_does(world: World, build: Any) -> None:
    first, second = book(world), book(world, after=timedelta(days=40))
    prepared = Prepared(build)
    names = ("begin", "end") if build is _spent else ("starts_at", "ends_at")
    for person in (world.ada.pk, world.bob.pk):
        for without in (NOBODY, first.pk, second.pk):
            for lease in (first, second):
                values: dict[str, Any] = {
                    "tenant_id": world.studio.pk,
                    "person_id": person,
                    "without": without,
                }
                values |= dict(zip(names, (lease.starts_at, lease.ends_at), strict=True))
                assert prepared.rows(**values) == list(build(**values))
    assert len(prepared._built) == 1


def test_a_value_that_changes_the_statement_is_refused() -> None:
    def varying(*, tenant_id: UUID, now: datetime) -> QuerySet[Quota, Any]:
        late = Q(valid_until=None) if now.year > 2000 else Q(valid_until=now)
        return Quota.objects.filter(late, tenant=tenant_id).values_list("pk")

    with pytest.raises(TypeError, match="the value now does more"):
        Prepared(varying).rows(tenant_id=uuid4(), now=datetime.fromisoformat("2026-01-01T00:00:00Z"))


def test_a_row_is_inserted_as_it_is(world: World) -> None:
    lease = Lease.objects.get(pk=book(world).pk)
    lease.holds.all().delete()
    Lease.objects.filter(pk=lease.pk).delete()
    insert(lease)
    assert Lease.objects.filter(pk=lease.pk).values().get() == {
        field.attname: getattr(lease, field.attname) for field in lease._meta.concrete_fields
    }
    entry = AuditEntry.objects.latest("id")
    copy = AuditEntry(**{f.attname: getattr(entry, f.attname) for f in entry._meta.fields if f.name != "id"})
    assert insert(copy).pk == AuditEntry.objects.latest("id").pk > entry.pk


def test_a_row_of_a_statement_of_our_own_is_as_the_orm_makes_it(world: World) -> None:
    lease = book(world)
    columns = f"{columns_of(Lease, 'l')}, {columns_of(Tenant, 't')}"
    joined = "leasing_lease l JOIN leasing_tenant t ON t.id = l.tenant_id"
    statement = f"SELECT {columns} FROM {joined}"  # noqa: S608 - no values in it
    ((found, tenant),) = ask_joined((Lease, Tenant), statement, {})
    for row, model in ((found, Lease.objects.get()), (tenant, world.studio)):
        for field in row._meta.concrete_fields:
            assert repr(getattr(row, field.attname)) == repr(getattr(model, field.attname)), field
    assert found.pk == lease.pk


def test_what_is_done_together_says_how_much_each_part_has_changed(world: World) -> None:
    first, second = book(world), book(world, after=timedelta(days=2))
    holds = Hold._meta.db_table
    moved = f"UPDATE {holds} SET ends_at = %s WHERE lease_id = %s"  # noqa: S608 - its own table
    later = first.ends_at + timedelta(days=1)
    another = next(gpu for gpu in world.gpus if not first.holds.filter(gpu=gpu))
    again = inserting(
        Hold,
        ("lease_id", "gpu_id", "starts_at", "ends_at"),
        [(first.pk, another.pk, later, later + HOUR)],
    )
    gone = f"DELETE FROM {holds} WHERE lease_id = %s"  # noqa: S608
    assert change((moved, [later, first.pk]), again, (gone, [second.pk]), (gone, [NOBODY])) == [1, 1, 1, 0]
    assert {hold.ends_at for hold in first.holds.all()} == {later, later + HOUR}
    assert not second.holds.exists()
    assert change((gone, [first.pk])) == [2]


def test_a_booking_mends_openings_around_it_that_were_not_true(world: World) -> None:
    """What was lost there is not built upon: all that touches the time is made anew."""
    book(world)
    assert list(openings_match_holds(world.now)) == []
    then = micros(world.now + 3 * HOUR)
    there = Opening.objects.filter(starts__lte=then, ends__gte=then)
    there.exclude(pk=there.latest("gpus").pk).delete()
    assert list(openings_match_holds(world.now)) != []
    book(world, after=3 * HOUR)
    assert list(openings_match_holds(world.now)) == []
