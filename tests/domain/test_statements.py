"""A booking costs a fixed number of statements: each one more is paid for by every booking."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from leasing.booking import request_lease
from leasing.fsck import run_checks
from leasing.models import Quota, QuotaKind
from leasing.slots import find_start
from tests.world import World

HOUR = timedelta(hours=1)
SEARCH = 1
# PostgreSQL is given the lease, its entry, its holds, and what they change of the openings, as one.
BOOKING = {"postgresql": 9, "sqlite": 13}


@pytest.fixture
def world(db: None) -> World:
    return World(gpus=4, concurrent_gpus=100)


def statements_of(work: Callable[[], object]) -> list[str]:
    seen: list[str] = []

    def note(execute: Callable[..., Any], sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if "SAVEPOINT" not in sql:  # the test's own transaction makes the booking's one
            seen.append(sql)
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(note):
        work()
    return seen


def test_searching_and_booking_take_no_more_statements_than_they_did(world: World) -> None:
    for kind in (QuotaKind.GPU_HOURS, QuotaKind.BUDGET):
        Quota.objects.create(
            tenant=world.studio, kind=kind, value=10_000, currency="EUR" if kind == QuotaKind.BUDGET else "",
            valid_from=world.now, created_at=world.now,
        )  # fmt: skip

    def book(hours: int) -> None:
        starts_at = world.now + hours * HOUR
        request_lease(
            actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
            starts_at=starts_at, ends_at=starts_at + HOUR, now=world.now,
        )  # fmt: skip

    searched = statements_of(lambda: find_start(world.flavor, HOUR, now=world.now))
    assert len(searched) == SEARCH, "\n".join(searched)
    for hours in (2, 5, 9):
        booked = statements_of(lambda hours=hours: book(hours))  # type: ignore[misc]
        assert len(booked) <= BOOKING[connection.vendor], "\n".join(booked)
    assert run_checks(world.now) == []
