"""Budgets: warned about once each, three rules for what is beyond, and what the month will come to."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

import pytest

from leasing.actors import SYSTEM
from leasing.billing.budget_warnings import steps_reached
from leasing.billing.budgets import budget_of, charges, set_budget, set_budget_rule
from leasing.billing.prices import set_rate
from leasing.booking import judge_booking, quote_lease
from leasing.errors import InvalidRequest, NotVisible
from leasing.fsck import run_checks
from leasing.models import BudgetWarning, Notification
from leasing.quotas import OverBudget
from leasing.recurrence import Pattern
from leasing.series import book_series
from tests.domain.billing_office import HOUR, Office

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def budget(office: Office, value: int, rule: str = "approve") -> None:
    actor = office.actor(office.approver)
    set_budget(actor=actor, tenant=office.studio, value=Decimal(value), currency="EUR", now=office.now)
    office.studio = set_budget_rule(actor=actor, tenant=office.studio, rule=rule, now=office.now)


def told() -> list[str]:
    notices = Notification.objects.filter(kind="budget-warning").order_by("pk")
    return [notice.subject.partition(" %")[0] for notice in notices]


@pytest.mark.parametrize(
    ("total", "value", "steps"),
    [("49.99", 100, []), ("50", 100, [50]), ("99.99", 100, [50, 80]), ("100", 100, [50, 80, 100]),
     ("0", 0, []), ("0.01", 0, [50, 80, 100])],
)  # fmt: skip
def test_steps(total: str, value: int, steps: list[int]) -> None:
    assert steps_reached(Decimal(total), Decimal(value)) == steps


def test_approvers_are_warned_once_at_each_step_of_each_month() -> None:
    office = Office()
    budget(office, 38)
    office.book(4)
    assert told() == []
    office.book(1, after=10 * HOUR)
    office.book(1, after=12 * HOUR)
    assert told() == ["50"]
    office.book(4, after=14 * HOUR)
    assert told() == ["50", "100"], "80 and 100 are reached at once, and told once"
    office.book(1, after=30 * HOUR)
    assert told() == ["50", "100"]
    office.book(6, after=40 * DAY)
    assert told() == ["50", "100", "50"], "the next month has its own"
    assert BudgetWarning.objects.count() == 4
    assert run_checks(office.now) == []


def test_beyond_the_budget_a_booking_waits_is_only_warned_about_or_is_refused() -> None:
    office = Office()
    budget(office, 10)
    assert office.book(4).state == "requested"
    budget(office, 10, "warn")
    assert office.book(4).state == "scheduled"
    budget(office, 10, "refuse")
    with pytest.raises(OverBudget) as refused:
        office.book(1, after=10 * HOUR)
    assert "of 10 EUR" in str(refused.value)
    window = {"starts_at": office.now + 10 * HOUR, "ends_at": office.now + 11 * HOUR}
    quote = quote_lease(tenant=office.studio, flavor=office.flavor, **window, now=office.now)
    with pytest.raises(OverBudget):
        judge_booking(
            tenant=office.studio, person=office.ada, flavor=office.flavor, quote=quote, **window,
            now=office.now,
        )  # fmt: skip
    assert office.book(1, after=40 * DAY).state == "scheduled"
    assert run_checks(office.now) == []


def test_only_approvers_and_who_manages_the_money_set_a_budget_and_its_rule() -> None:
    office = Office()
    for person in (office.ada, office.finance, office.operator, office.auditor, office.bob):
        with pytest.raises(NotVisible):
            set_budget_rule(actor=office.actor(person), tenant=office.studio, rule="warn", now=office.now)
    set_budget_rule(actor=office.actor(office.petra), tenant=office.studio, rule="warn", now=office.now)
    with pytest.raises(InvalidRequest):
        set_budget_rule(actor=SYSTEM, tenant=office.studio, rule="hope", now=office.now)


def test_of_several_bookings_at_once_the_step_that_all_reach_is_told() -> None:
    office = Office()
    budget(office, 100)
    first = office.now.date() + DAY
    book_series(
        actor=office.actor(office.ada),
        tenant=office.studio,
        flavor=office.flavor,
        image=office.image,
        pattern=Pattern(frozenset(range(1, 8)), time(18), time(22), "Europe/Berlin", first, first + 3 * DAY),
        now=office.now,
    )
    assert told() == ["50"]
    assert list(BudgetWarning.objects.values_list("percent", flat=True)) == [50]


def test_lines_that_were_rounded_up_are_not_booked_less_than_nothing() -> None:
    """Each line is rounded by itself; what is booked is not."""
    office = Office()
    for _ in range(3):
        office.use(0.25)
    set_rate(
        actor=office.actor(office.petra), flavor=office.flavor, per_hour=Decimal("0.055"), currency="EUR",
        now=office.now,
    )  # fmt: skip
    office.now += HOUR
    for _ in range(5):
        office.use(1)
    (euro,) = budget_of(office.studio, now=office.now).forecasts
    assert euro.used == Decimal("3.15")
    assert (euro.booked, euro.certain) == (Decimal(0), euro.used)


def test_the_forecast_is_what_was_used_and_booked_or_more_of_the_same() -> None:
    """Ten of thirty-one days are over; eleven hours were used, three are booked."""
    office = Office(start=datetime(2026, 5, 1, tzinfo=UTC) - 2 * HOUR)
    office.use(10, project="film", cost_centre="4711")
    office.use(1)
    office.book(3, after=5 * DAY, project="film")
    office.now = datetime(2026, 5, 11, tzinfo=UTC) - 2 * HOUR
    found = budget_of(office.studio, now=office.now)
    (euro,) = found.forecasts
    assert (found.month.name, found.limit) == ("2026-05", None)
    assert (euro.used, euro.booked, euro.certain) == (Decimal("41.80"), Decimal("11.40"), Decimal("53.20"))
    assert euro.trend == Decimal("41.80") + Decimal("87.78")
    told = [
        (one.project, one.cost_centre, one.amount)
        for one in charges(office.studio, "2026-05", now=office.now)
    ]
    assert told == [("", "", Decimal("3.80")), ("film", "4711", Decimal("38.00"))]
