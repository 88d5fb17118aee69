"""Repeated bookings: whole, or without exactly the dates that were named; limits count all of it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from hypothesis import given
from hypothesis import strategies as st

from leasing.actors import SYSTEM
from leasing.approval import approve_lease, approve_series, reject_lease, reject_series
from leasing.booking import request_lease
from leasing.changing import change_window
from leasing.considerations import of_series
from leasing.ending import end_lease, end_series
from leasing.errors import InvalidRequest, NotAllowed, NothingFree, NotVisible, WrongState
from leasing.fsck import Finding, run_checks
from leasing.models import AuditEntry, Flavor, Hold, Lease, Notification, Person, Rate, Series, Tenant
from leasing.policy import grant_role, visible_series
from leasing.quotas import set_quota
from leasing.recurrence import Pattern
from leasing.series import DatesLost, book_series
from leasing.series_plan import Plan, Planned, preview_series
from tests.chosen import chosen, how_many
from tests.domain.oracle import Oracle
from tests.world import World

pytestmark = pytest.mark.django_db
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BERLIN = ZoneInfo("Europe/Berlin")
# Always the same fleets, unless LEASEHOLD_FLEETS asks for that many others.
CHOSEN = chosen(how_many(6))
# The world begins on Monday, 2 March 2026, at nine in UTC, which is ten in Berlin.
WORKDAYS = Pattern(
    weekdays=frozenset({1, 2, 3, 4, 5}),
    starts=time(9),
    ends=time(17),
    zone="Europe/Berlin",
    first_on=date(2026, 3, 3),
    last_on=date(2026, 3, 13),
)


@pytest.fixture
def world() -> World:
    return World(gpus=1, concurrent_gpus=9)


def preview(world: World, pattern: Pattern = WORKDAYS, *, without: tuple[date, ...] = ()) -> Plan:
    return preview_series(
        actor=world.actor(world.ada),
        tenant=world.studio,
        flavor=world.flavor,
        pattern=pattern,
        without=without,
        now=world.now,
    )


def book(
    world: World,
    pattern: Pattern = WORKDAYS,
    *,
    without: tuple[date, ...] = (),
    who: Person | None = None,
    tenant: Tenant | None = None,
    flavor: Flavor | None = None,
) -> Series:
    return book_series(
        actor=world.actor(who or world.ada),
        tenant=tenant or world.studio,
        flavor=flavor or world.flavor,
        image=world.image,
        pattern=pattern,
        without=without,
        purpose="Dailies",
        now=world.now,
    )


def theirs(world: World, day: date, begin: int = 8, end: int = 12) -> Lease:
    """Somebody else has it on that day, in Berlin's hours."""
    starts_at, ends_at = (datetime.combine(day, time(hour), BERLIN) for hour in (begin, end))
    return request_lease(
        actor=world.actor(world.bob),
        tenant=world.research,
        flavor=world.flavor,
        image=world.image,
        starts_at=starts_at,
        ends_at=ends_at,
        now=world.now,
    )


def of_day(plan: Plan, day: date) -> Planned:
    return next(one for one in plan.planned if one.occurrence.day == day)


def test_every_workday_from_nine_to_five(world: World) -> None:
    plan = preview(world)
    assert (len(plan.booked), plan.lost, plan.approval_because.code) == (9, [], "")
    assert plan.totals == {"EUR": Decimal("30.40") * 9}
    assert not Lease.objects.exists()
    series = book(world)
    leases = list(series.leases.order_by("starts_at"))
    assert [lease.occurs_on for lease in leases] == [one.occurrence.day for one in plan.booked]
    assert {lease.state for lease in leases} == {"scheduled"}
    assert {lease.starts_at.astimezone(BERLIN).hour for lease in leases} == {9}
    assert sum(lease.quoted_total for lease in leases) == plan.totals["EUR"]
    assert Hold.objects.count() == 9
    assert series.pattern == WORKDAYS
    entry = json.loads(AuditEntry.objects.get(action="series.request").text)
    assert entry["subject"] == f"series:{series.pk}"
    assert sorted(entry["detail"]["leases"]) == sorted(str(lease.pk) for lease in leases)
    assert AuditEntry.objects.filter(action="lease.request").count() == 9
    assert Notification.objects.count() == 0
    world.tick()
    assert run_checks(world.now) == []


def test_a_date_that_is_taken_is_shown_with_why_and_with_what_is_free_then(world: World) -> None:
    taken = date(2026, 3, 5)
    theirs(world, taken, 12, 14)
    one = of_day(preview(world), taken)
    assert one.lost is not None
    assert [reason.code for reason in one.lost.reasons] == ["booked-by-others"]
    shorter, other = one.instead
    assert shorter.starts_at == one.occurrence.starts_at
    assert shorter.ends_at.astimezone(BERLIN).time() == time(11, 53), "and the minutes for cleaning"
    assert other.starts_at.astimezone(BERLIN).date() == taken
    assert other.ends_at - other.starts_at == 8 * HOUR
    assert shorter.quote.total < one.quote.total == other.quote.total


def test_it_is_booked_whole_or_not_at_all(world: World) -> None:
    for day in (date(2026, 3, 5), date(2026, 3, 10)):
        theirs(world, day)
    with pytest.raises(DatesLost) as refused:
        book(world)
    assert refused.value.days == [date(2026, 3, 5), date(2026, 3, 10)]
    assert "March 5, 2026" in str(refused.value.message)
    assert "March 10, 2026" in str(refused.value.message)
    assert not Series.objects.exists()
    assert not Lease.objects.filter(owner=world.ada).exists()
    assert run_checks(world.now) == []


def test_or_without_the_dates_that_were_named_and_no_others(world: World) -> None:
    named = date(2026, 3, 5)
    theirs(world, named)
    plan = preview(world)
    assert [one.occurrence.day for one in plan.lost] == [named]
    theirs(world, date(2026, 3, 10))
    with pytest.raises(DatesLost) as refused:
        book(world, without=(named,))
    assert refused.value.days == [date(2026, 3, 10)], "only what had not been named"
    assert not Series.objects.exists()
    series = book(world, without=(named, date(2026, 3, 10)))
    assert series.leases.count() == 7
    assert series.days_left_out == {named, date(2026, 3, 10)}
    assert len(preview(world, without=(named,)).booked) == 0, "it has them itself now"
    world.tick()
    assert run_checks(world.now) == []


def test_a_date_may_be_left_out_though_it_is_free(world: World) -> None:
    holiday = date(2026, 3, 6)
    assert len(preview(world, without=(holiday,)).booked) == 8
    assert book(world, without=(holiday,)).leases.filter(occurs_on=holiday).count() == 0


WRONG: dict[str, tuple[dict[str, object], tuple[date, ...], str]] = {
    "a date that is none of it": ({}, (date(2026, 3, 7),), "without"),
    "nothing left": ({"last_on": date(2026, 3, 3)}, (date(2026, 3, 3),), "without"),
    "no time between two": ({"ends": time(9)}, (), "ends"),
    "the past": ({"first_on": date(2026, 3, 1)}, (), "first_on"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_asked_for_is_refused_by_both(world: World, case: str) -> None:
    changes, without, field = WRONG[case]
    pattern = replace(WORKDAYS, **changes)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as refused:
        book(world, pattern, without=without)
    assert refused.value.field == field
    if case != "nothing left":
        with pytest.raises(InvalidRequest):
            preview(world, pattern, without=without)


def test_what_is_not_offered_or_not_ones_own(world: World) -> None:
    with pytest.raises(NotVisible):
        book(world, tenant=world.research)
    world.flavor.offered = False
    with pytest.raises(InvalidRequest):
        book(world)


def test_a_start_that_is_over_and_a_time_that_does_not_exist_are_dates_to_be_named(world: World) -> None:
    today = replace(WORKDAYS, first_on=date(2026, 3, 2), ends=time(10, 30))
    plan = preview(world, today)
    assert [str(one.occurrence.day) for one in plan.lost] == ["2026-03-02"]
    assert plan.lost[0].lost is not None
    assert plan.lost[0].lost.reasons[0].code == "start-is-over"
    world.now += timedelta(minutes=4)
    nearly = preview(world, replace(today, starts=time(10), ends=time(10, 4)))
    assert [str(one.occurrence.day) for one in nearly.lost] == ["2026-03-02"], "nothing is left of it"
    night = Pattern(
        weekdays=frozenset({7}),
        starts=time(2, 10),
        ends=time(2, 50),
        zone="Europe/Berlin",
        first_on=date(2026, 3, 15),
        last_on=date(2026, 4, 12),
    )
    with pytest.raises(DatesLost) as refused:
        book(world, night)
    assert refused.value.days == [date(2026, 3, 29)]
    assert book(world, night, without=(date(2026, 3, 29),)).leases.count() == 4
    assert run_checks(world.now) == []


def test_the_first_may_begin_now(world: World) -> None:
    world.now += timedelta(seconds=20)
    series = book(world, replace(WORKDAYS, first_on=date(2026, 3, 2), starts=time(10)))
    first = series.leases.order_by("starts_at").first()
    assert first is not None
    assert first.starts_at == world.now
    world.tick()
    first.refresh_from_db()
    assert first.state == "provisioning"
    assert run_checks(world.now) == []


def test_limits_count_the_whole_series(world: World) -> None:
    set_quota(actor=SYSTEM, tenant=world.studio, kind="gpu-hours", value=Decimal(64), now=world.now)
    week = replace(WORKDAYS, last_on=date(2026, 3, 12))
    assert preview(world, week).approval_because.code == ""
    plan = preview(world)
    because = plan.approval_because
    assert because.code == "over-gpu-hours"
    hours = (
        sum((one.occurrence.ends_at - one.occurrence.starts_at).total_seconds() for one in plan.booked) / 3600
    )
    (measure,) = [one for one in plan.measures if one.limit.kind == "gpu-hours"]
    assert (float(measure.asked), measure.is_over) == (hours, True), "all dates of the month together"
    assert dict(because.facts)["total"] == "72.00", "the most that it comes to"
    series = book(world)
    assert {lease.state for lease in series.leases.all()} == {"requested"}
    assert {lease.needs_approval_because for lease in series.leases.all()} == {because}
    assert run_checks(world.now) == []


def test_whoever_decides_sees_what_whoever_asked_saw(world: World) -> None:
    for kind, value, currency in (("gpu-hours", Decimal(40), ""), ("budget", Decimal(100), "EUR")):
        set_quota(actor=SYSTEM, tenant=world.studio, kind=kind, value=value, currency=currency, now=world.now)
    over_two_months = replace(WORKDAYS, first_on=date(2026, 3, 25), last_on=date(2026, 4, 7))
    plan = preview(world, over_two_months)
    assert len({one.month for one in plan.measures if one.month}) == 2
    series = book(world, over_two_months)
    waiting = list(series.leases.select_related("tenant", "owner", "flavor").order_by("starts_at"))
    assert of_series(waiting, now=world.now) == plan.measures


def test_money_counts_month_by_month(world: World) -> None:
    budget = Decimal("30.40") * 7
    set_quota(actor=SYSTEM, tenant=world.studio, kind="budget", value=budget, currency="EUR", now=world.now)
    over_two_months = replace(WORKDAYS, first_on=date(2026, 3, 25), last_on=date(2026, 4, 7))
    assert preview(world, over_two_months).approval_because.code == ""
    assert preview(world, replace(WORKDAYS, last_on=date(2026, 3, 12))).approval_because.code == "over-budget"


def test_one_too_far_ahead_makes_all_of_them_wait(world: World) -> None:
    weekly = replace(WORKDAYS, weekdays=frozenset({2}), last_on=date(2026, 5, 26))
    series = book(world, weekly)
    assert {lease.state for lease in series.leases.all()} == {"requested"}
    assert series.leases.first().needs_approval_because.code == "too-far-ahead"  # type: ignore[union-attr]
    assert run_checks(world.now) == []


@pytest.fixture
def asked(world: World) -> Series:
    """A series that waits for an approver."""
    set_quota(actor=SYSTEM, tenant=world.studio, kind="gpu-hours", value=Decimal(0), now=world.now)
    return book(world)


def test_approvers_are_asked_once_and_decide_once(world: World, asked: Series) -> None:
    (told,) = Notification.objects.all()
    assert (told.recipient, told.kind) == (world.approver, "series-request")
    assert "9 times" in told.subject
    assert "Mon, Tue, Wed, Thu, Fri 09:00–17:00 (Europe/Berlin)" in told.body
    approve_series(actor=world.actor(world.approver), series_id=asked.pk, note="Fine.", now=world.now)
    leases = list(asked.leases.all())
    assert {(lease.state, lease.decided_by_id) for lease in leases} == {("scheduled", world.approver.pk)}
    (answer,) = Notification.objects.exclude(pk=told.pk)
    assert (answer.recipient, answer.kind) == (world.ada, "series-approve")
    assert AuditEntry.objects.filter(action="series.approve").count() == 1
    assert AuditEntry.objects.filter(action="lease.approve").count() == 9
    with pytest.raises(WrongState):
        approve_series(actor=world.actor(world.approver), series_id=asked.pk, now=world.now)
    world.tick()
    assert run_checks(world.now) == []


def test_they_may_decide_on_single_dates_and_on_the_rest_at_once(world: World, asked: Series) -> None:
    first, second, *_rest = asked.leases.order_by("starts_at")
    approver = world.actor(world.approver)
    approve_lease(actor=approver, lease_id=first.pk, now=world.now)
    reject_lease(actor=approver, lease_id=second.pk, note="Not on that day.", now=world.now)
    with pytest.raises(InvalidRequest):
        reject_series(actor=approver, series_id=asked.pk, note=" ", now=world.now)
    assert reject_series(actor=approver, series_id=asked.pk, note="No more.", now=world.now) == 7
    outcomes = [lease.outcome for lease in asked.leases.order_by("starts_at")]
    assert outcomes == ["", *["rejected"] * 8]
    assert Hold.objects.count() == 1
    kinds = Notification.objects.filter(recipient=world.ada).order_by("id").values_list("kind", flat=True)
    assert list(kinds) == ["lease-approve", "lease-reject", "series-reject"]
    assert run_checks(world.now) == []


def test_nobody_decides_on_their_own_series(world: World, asked: Series) -> None:
    grant_role(actor=SYSTEM, person=world.ada, tenant=world.studio, role="approver", now=world.now)
    with pytest.raises(NotAllowed):
        approve_series(actor=world.actor(world.ada), series_id=asked.pk, now=world.now)
    for decide in (approve_series, reject_series):
        with pytest.raises(NotVisible):
            decide(actor=world.actor(world.bob), series_id=asked.pk, note="mine", now=world.now)
    assert list(visible_series(world.bob)) == []


def test_what_nobody_decides_on_lapses_and_its_owner_is_told_once(world: World, asked: Series) -> None:
    """Each at its start, at the latest after a day: those together are one tiding."""
    world.tick(after=23 * HOUR)
    assert asked.leases.filter(outcome="expired").count() == 1
    world.tick(after=2 * HOUR)
    assert asked.leases.filter(outcome="expired").count() == 9
    told = Notification.objects.filter(recipient=world.ada, kind="series-expire")
    assert ["Workstations: 1." in one.body for one in told.order_by("id")] == [True, False]
    assert Hold.objects.count() == 0
    assert run_checks(world.now) == []


def test_its_owner_cancels_one_or_all_that_is_ahead(world: World) -> None:
    series = book(world)
    ada = world.actor(world.ada)
    world.now = datetime.combine(date(2026, 3, 3), time(9), BERLIN).astimezone(UTC)
    world.host.inventory(*(gpu.address for gpu in world.gpus), at=world.now)
    world.tick()
    first, second, *_rest = series.leases.order_by("starts_at")
    assert first.state == "provisioning"
    end_lease(actor=ada, lease_id=second.pk, now=world.now)
    with pytest.raises(NotVisible):
        end_series(actor=world.actor(world.bob), series_id=series.pk, now=world.now)
    assert end_series(actor=ada, series_id=series.pk, now=world.now) == 7
    first.refresh_from_db()
    assert first.state == "provisioning", "what has begun goes on"
    assert Hold.objects.count() == 1
    with pytest.raises(WrongState):
        end_series(actor=ada, series_id=series.pk, now=world.now)
    assert AuditEntry.objects.filter(action="series.cancel").count() == 1
    world.tick()
    assert run_checks(world.now) == []


def test_a_lease_of_a_series_is_moved_like_any_other(world: World) -> None:
    lease = book(world).leases.order_by("starts_at")[0]
    moved = lease.starts_at + 4 * DAY
    change_window(
        actor=world.actor(world.ada), lease_id=lease.pk, starts_at=moved, ends_at=moved + HOUR, now=world.now
    )
    lease.refresh_from_db()
    assert (lease.occurs_on, lease.starts_at) == (date(2026, 3, 3), moved)
    assert run_checks(world.now) == []


def test_each_date_has_the_price_in_force_at_its_start(world: World) -> None:
    Rate.objects.create(
        flavor=world.flavor,
        per_hour=Decimal(5),
        currency="USD",
        valid_from=datetime.combine(date(2026, 3, 9), time(0), BERLIN),
    )
    assert preview(world).totals == {"EUR": Decimal("30.40") * 4, "USD": Decimal(40) * 5}
    quoted = {lease.currency: lease.quoted_total for lease in book(world).leases.all()}
    assert quoted == {"EUR": Decimal("30.40"), "USD": Decimal(40)}
    assert run_checks(world.now) == []


def wrong(world: World) -> list[Finding]:
    """All but the log: its anchor is outside what an example rolls back."""
    return [finding for finding in run_checks(world.now) if finding.check != "audit"]


hours = st.integers(0, 23)


@CHOSEN
@given(
    st.lists(
        st.tuples(st.integers(0, 13), hours, st.integers(1, 30), st.sampled_from([1, 1, 2])), max_size=8
    ),
    st.lists(
        st.tuples(st.frozensets(st.integers(1, 7), min_size=1), hours, hours, st.sampled_from([1, 2])),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 3),
)
def test_a_date_can_be_had_exactly_where_the_slow_truth_says_so(
    others: list[tuple[int, int, int, int]],
    wanted: list[tuple[frozenset[int], int, int, int]],
    gpus: int,
) -> None:
    """Preview and booking agree with the oracle, minute by minute, series after series."""
    with transaction.atomic():
        world = World(gpus=gpus, concurrent_gpus=99)
        pair = Flavor.objects.create(slug="pair", name="Pair", model=world.model, gpu_count=2)
        world.price(pair)
        for day, hour, length, width in others:
            starts_at = world.now + day * DAY + hour * HOUR
            with suppress(NothingFree), transaction.atomic():
                request_lease(
                    actor=world.actor(world.bob), tenant=world.research,
                    flavor=pair if width == 2 else world.flavor, image=world.image,
                    starts_at=starts_at, ends_at=starts_at + length * HOUR, now=world.now,
                )  # fmt: skip
        for weekdays, begin, end, width in wanted:
            flavor = pair if width == 2 else world.flavor
            pattern = replace(
                WORKDAYS,
                weekdays=weekdays,
                starts=time(begin, 30),
                ends=time(end, 20),
                last_on=date(2026, 3, 15),
            )
            agree(world, flavor, pattern)
        assert wrong(world) == []
        transaction.set_rollback(True)


def agree(world: World, flavor: Flavor, pattern: Pattern) -> None:
    plan = preview_series(
        actor=world.actor(world.ada), tenant=world.studio, flavor=flavor, pattern=pattern, now=world.now
    )
    oracle = Oracle(flavor, now=world.now, horizon=world.now + 30 * DAY)
    lost = {
        one.occurrence.day
        for one in plan.planned
        if not oracle.fits(one.occurrence.starts_at, one.occurrence.ends_at)
    }
    assert {one.occurrence.day for one in plan.lost} == lost
    for one in plan.lost:
        assert one.lost is not None
        assert one.lost.reasons
        assert all(oracle.fits(slot.starts_at, slot.ends_at) for slot in one.instead)
    before = Lease.objects.count()
    if lost:
        with pytest.raises(DatesLost) as refused:
            book(world, pattern, flavor=flavor)
        assert set(refused.value.days) == lost
        assert Lease.objects.count() == before
    if plan.booked:
        series = book(world, pattern, flavor=flavor, without=tuple(lost))
        assert series.leases.count() == len(plan.planned) - len(lost) == len(plan.booked)
