"""Fsck makes every sum anew from the log: whatever slips past a limit is found, of each kind."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import DjangoDbBlocker, Settings

from leasing import quotas, spent
from leasing.actors import SYSTEM
from leasing.approval import approve_lease
from leasing.booking import request_lease
from leasing.changing import change_end, change_window
from leasing.ending import end_lease
from leasing.fsck import ledger as ledger_module
from leasing.fsck import run_checks
from leasing.fsck.ledger import Booking, Ledger
from leasing.fsck.limits import bookings_were_allowed
from leasing.limits import Limit, Measure, Use, exact_seconds, month_spans, peak_gpus, plain
from leasing.models import Lease, Tenant
from leasing.quotas import PERSONAL, set_quota
from leasing.terms import Term
from tests.world import START, World

pytestmark = pytest.mark.django_db
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# What one lease of two hours, from tomorrow on, is still inside of, and twice as much is not.
JUST = {
    "gpus": Decimal(1),
    "gpu-hours": Decimal("3.5"),
    "longest": Decimal("2.5"),
    "ahead": Decimal("1.5"),
    "budget": Decimal("10.00"),
}
KINDS = pytest.mark.parametrize("kind", JUST)


@pytest.fixture(scope="module")
def built(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, signing_key_file: Path, tmp_path_factory: Any
) -> Iterator[tuple[World, Path]]:
    """Built once with its anchor; each test lives in a savepoint of its own."""
    anchor = tmp_path_factory.mktemp("limits") / "anchors.jsonl"
    files = override_settings(SIGNING_KEY_FILE=signing_key_file, AUDIT_ANCHOR_FILE=anchor)
    with django_db_blocker.unblock(), transaction.atomic():
        with files:
            world = World(gpus=4, concurrent_gpus=9)
        yield world, anchor
        transaction.set_rollback(True)


@pytest.fixture
def world(built: tuple[World, Path], db: None, settings: Settings) -> World:
    world, anchor = built
    shutil.copy(anchor, settings.AUDIT_ANCHOR_FILE)
    return copy.deepcopy(world)


@pytest.fixture
def no_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit is looked at, and none is heeded."""
    monkeypatch.setattr(Measure, "is_over", property(lambda _measure: False))


def limit(world: World, kind: str, **more: object) -> None:
    currency = "EUR" if kind == "budget" else ""
    set_quota(
        actor=SYSTEM,
        tenant=world.studio,
        kind=kind,
        value=JUST[kind],
        currency=currency,
        now=world.now,
        **more,  # type: ignore[arg-type]
    )


def book(world: World, after: timedelta = DAY, hours: int = 2) -> Lease:
    return request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=world.now + after, ends_at=world.now + after + hours * HOUR, now=world.now,
    )  # fmt: skip


def extend(world: World, lease: Lease, by: timedelta) -> None:
    change_end(actor=world.actor(world.ada), lease_id=lease.pk, ends_at=lease.ends_at + by, now=world.now)


def move(world: World, lease: Lease, by: timedelta, *, longer: timedelta = timedelta(0)) -> None:
    change_window(
        actor=world.actor(world.ada),
        lease_id=lease.pk,
        starts_at=lease.starts_at + by,
        ends_at=lease.ends_at + by + longer,
        now=world.now,
    )


def found(world: World) -> list[str]:
    return [finding.problem for finding in bookings_were_allowed(world.now)]


def book_more(world: World) -> None:
    """Beyond each limit: at the same time, longer, and farther ahead."""
    book(world)
    book(world, after=2 * DAY, hours=3)
    book(world)


def add_more(world: World) -> None:
    book(world)
    extend(world, book(world, after=DAY + 2 * HOUR), 2 * HOUR)
    lease = book(world, after=DAY - 3 * HOUR)
    extend(world, lease, 2 * HOUR)


def move_more(world: World) -> None:
    book(world)
    move(world, book(world, after=DAY - 4 * HOUR), 4 * HOUR)
    move(world, book(world, after=6 * HOUR), 2 * DAY, longer=HOUR)


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        (kind, act)
        for kind in JUST
        for act in (book_more, add_more, move_more)
        if (kind, act) != ("ahead", add_more)
    ],
)
def test_what_slips_past_a_limit_is_found(
    world: World, kind: str, act: Callable[[World], None], no_limit_counts: None
) -> None:
    limit(world, kind)
    act(world)
    beyond = [problem for problem in found(world) if f"{plain(JUST[kind])} need no decision" in problem]
    assert beyond, found(world)
    assert all(problem.startswith(kind) for problem in beyond)


@pytest.mark.parametrize(
    ("kind", "whose"),
    [
        *((kind, "own") for kind in sorted(JUST)),
        *((kind, "model") for kind in sorted(JUST) if kind not in PERSONAL),
    ],
)
def test_limits_of_one_person_and_of_one_model_too(
    world: World, kind: str, whose: str, no_limit_counts: None
) -> None:
    limit(world, kind, **({"person": world.ada} if whose == "own" else {"model": world.model}))
    book_more(world)
    name = f"{kind} own" if whose == "own" else f"{kind} a6000"
    assert any(problem.startswith(name) and "need no decision" in problem for problem in found(world))


@KINDS
def test_what_was_just_inside_is_in_order(world: World, kind: str) -> None:
    limit(world, kind)
    first = book(world)
    assert first.state == "scheduled"
    end_lease(actor=world.actor(world.ada), lease_id=first.pk, now=world.now)
    again = book(world, hours=1)
    extend(world, again, HOUR)
    move(world, again, -HOUR)
    assert run_checks(world.now) == []


@KINDS
def test_what_was_decided_is_in_order(world: World, kind: str) -> None:
    """Also what is changed while it still waits."""
    limit(world, kind)
    book(world)
    asked = book(world, after=2 * DAY, hours=4) if kind in ("longest", "ahead") else book(world)
    assert asked.state == "requested"
    extend(world, asked, HOUR)
    move(world, asked, HOUR)
    approve_lease(actor=world.actor(world.approver), lease_id=asked.pk, now=world.now)
    assert run_checks(world.now) == []


def test_a_limit_that_was_overlooked_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(world, "gpu-hours")
    in_force = quotas.limits_in_force

    def forgetful(*args: object, **more: object) -> list[Limit]:
        return [one for one in in_force(*args, **more) if one.kind != "gpu-hours"]  # type: ignore[arg-type]

    monkeypatch.setattr(quotas, "limits_in_force", forgetful)
    book(world)
    assert found(world) == ["was not judged by the limit of gpu-hours 2026-03"]


def test_a_limit_that_had_lapsed_or_was_replaced_is_not_asked_for(world: World) -> None:
    limit(world, "gpus", until=world.now + HOUR)
    world.now += HOUR
    assert [book(world).state for _both in range(2)] == ["scheduled"] * 2
    limit(world, "longest")
    set_quota(actor=SYSTEM, tenant=world.studio, kind="longest", value=Decimal(9), now=world.now)
    assert book(world, hours=8).state == "scheduled"
    assert run_checks(world.now) == []


@pytest.mark.parametrize("forgotten", ["uses", "months", "pending"])
def test_what_was_not_counted_is_found(world: World, monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    """Also while everything is still inside the limit."""
    for kind in ("gpus", "gpu-hours"):
        set_quota(actor=SYSTEM, tenant=world.studio, kind=kind, value=Decimal(99), now=world.now)
    lease = book(world, after=timedelta(0))
    world.start(lease)
    extend(world, lease, 8 * HOUR)
    query = spent._SPENT if forgotten == "months" else quotas._USES
    known, pending_from = query.rows, lease.ends_at
    monkeypatch.setattr(
        query,
        "rows",
        lambda **values: [
            row
            for row in known(**values)
            if forgotten != "months" and (row[0] == pending_from) is (forgotten == "uses")
        ],
    )
    book(world, after=HOUR if forgotten == "uses" else 4 * HOUR, hours=1)
    assert any("was counted as" in problem for problem in found(world))


def test_time_that_a_host_has_yet_to_confirm_counts(world: World) -> None:
    limit(world, "gpus")
    lease = book(world, after=timedelta(0))
    world.start(lease)
    extend(world, lease, 8 * HOUR)
    assert lease.extensions.get().state == "pending"
    assert book(world, after=4 * HOUR).needs_approval_because.code == "over-limit"
    assert run_checks(world.now) == []


def test_months_are_those_of_the_tenants_zone(world: World) -> None:
    """And if it moves, those of its new one."""
    limit(world, "gpu-hours")
    first_of_april = timedelta(days=29, hours=15)
    Tenant.objects.filter(pk=world.studio.pk).update(timezone="Asia/Shanghai")
    assert book(world, after=first_of_april - 4 * HOUR, hours=3).state == "scheduled"
    asked = book(world, after=first_of_april + 9 * HOUR, hours=3)
    assert asked.state == "requested"
    end_lease(actor=world.actor(world.ada), lease_id=asked.pk, now=world.now)
    Tenant.objects.filter(pk=world.studio.pk).update(timezone="UTC")
    assert book(world, after=first_of_april + 10 * HOUR, hours=3).state == "scheduled"
    assert run_checks(world.now) == []


def test_a_budget_in_another_currency_is_no_way_around_it(world: World, no_limit_counts: None) -> None:
    set_quota(
        actor=SYSTEM, tenant=world.studio, kind="budget", value=Decimal(99), currency="USD", now=world.now
    )
    book(world)
    assert found(world) == ["budget came to another currency; 99 need no decision"]


bookings = st.lists(
    st.tuples(
        st.integers(0, 90 * 24), st.integers(1, 900), st.integers(1, 4), st.sampled_from(["ada", "bob"]),
        st.sampled_from(["a6000", "h100"]), st.sampled_from(["stay", "shorten", "stop", "cancel"]),
    ),
    max_size=12,
)  # fmt: skip


@hypothesis_settings(deadline=None)
@given(bookings, st.sampled_from(["UTC", "Europe/Berlin", "Asia/Shanghai"]))
def test_the_ledger_knows_what_adding_everything_up_would_say(
    history: list[tuple[int, int, int, str, str, str]], zone: str
) -> None:
    ledger = Ledger("UTC")
    for number, (start, hours, gpus, owner, model, fate) in enumerate(history):
        starts_at = START + start * HOUR
        terms = [Term(starts_at, starts_at + hours * HOUR, Decimal("3.8"))]
        row = Booking(owner, model, gpus, starts_at, starts_at + hours * HOUR, terms, "EUR", "scheduled")
        ledger.add(str(number), row)
        with ledger.changing(str(number)) as booking:
            if fate == "shorten":
                booking.ends_at = starts_at + hours * HOUR / 2
            elif fate == "stop":
                booking.state, booking.active_at = "ended", starts_at
                booking.stopped_at = starts_at + HOUR / 2
            elif fate == "cancel":
                booking.state, booking.stopped_at = "ended", START
    ledger.move_to(zone)
    for owner, model in product(["", "ada", "bob"], ["", "a6000", "h100"]):
        theirs = [
            row
            for row in ledger.bookings.values()
            if owner in ("", row.owner) and model in ("", row.model) and (row.ran or row.state != "ended")
        ]
        ((month, begin, end),) = month_spans(START, START + HOUR, zone)
        used = sum(
            (max(timedelta(0), min(row.until, end) - max(row.starts_at, begin)) * row.gpus for row in theirs),
            timedelta(0),
        )
        assert ledger.hours(month, owner=owner, model=model) == exact_seconds(used) / 3600
        money = ledger.money("EUR", month, owner=owner, model=model)
        lone = sum(
            (max(timedelta(0), min(row.until, end) - max(row.starts_at, begin)) for row in theirs),
            timedelta(0),
        )
        assert money == exact_seconds(lone) * Decimal("3.8") / 3600
        for lease_id, within in ledger.bookings.items():
            if within.holds and within in theirs:
                at_once = peak_gpus(
                    (row.use() for row in theirs if row.holds and row is not within), within=within.use()
                )
                assert ledger.peak(lease_id, owner=owner, model=model) == at_once


def test_judging_a_booking_looks_at_its_days_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    looked_at: list[int] = []

    def peak(uses: Iterable[Use], *, within: Use) -> int:
        looked_at.append(len(list(uses)))
        return 0

    monkeypatch.setattr(ledger_module, "peak_gpus", peak)
    ledger = Ledger("UTC")
    for number in range(500):
        starts_at = START + number * DAY
        ledger.add(
            str(number),
            Booking("ada", "a6000", 1, starts_at, starts_at + HOUR, [], "EUR", "scheduled"),
        )
        ledger.peak(str(number))
    assert max(looked_at) == 0
