"""What is kept is billed: each second once, at the price of its time, month by month, until it is removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.models import Host, StoragePool
from leasing import homes
from leasing.actors import SYSTEM
from leasing.audit.verifier import verify_log
from leasing.billing.budgets import budget_of, set_budget
from leasing.billing.closing import draft
from leasing.billing.months import month_of
from leasing.billing.prices import set_storage_rate
from leasing.errors import InvalidRequest, NotVisible
from leasing.exports.export import export_usage
from leasing.exports.filter import Billed, UsageFilter
from leasing.exports.lines import read_lines
from leasing.fsck import run_checks
from leasing.models import HomeVolume, StorageRate, UsageSegment
from leasing.storing import StoragePrice, due_storage, hourly, monthly
from tests.domain.billing_office import Office, amounts

HOUR = timedelta(hours=1)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(0, 400 * 86400).map(lambda seconds: EPOCH + timedelta(seconds=seconds))
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Shanghai", "America/St_Johns"])


@given(
    spans=st.lists(MOMENTS, min_size=2, max_size=2, unique=True).map(sorted),
    begins=st.lists(MOMENTS, max_size=4, unique=True),
    is_kept=st.booleans(),
    zone=ZONES,
)
def test_each_second_is_due_once_at_its_price_and_no_line_lies_in_two_months(
    spans: list[datetime], begins: list[datetime], is_kept: bool, zone: str
) -> None:
    since, until = spans
    prices = [StoragePrice(at, Decimal(number + 1), "EUR") for number, at in enumerate(begins)]
    given = None if is_kept else until
    lines = list(due_storage(since, given, gib=730, prices=prices, zone=zone, now=until))
    first = max(since, min(begins, default=until))
    if first >= until:
        assert [line for line in lines if line.starts_at < until] == []
        return
    ends = [line.ends_at or until for line in lines]
    assert (lines[0].starts_at, lines[-1].ends_at) == (first, given)
    assert all(end == after.starts_at for end, after in zip(ends, lines[1:], strict=False))
    for line, end in zip(lines, ends, strict=True):
        assert line.rate_per_hour == max(price for price in prices if price.since <= line.starts_at)[1]
        assert not any(line.starts_at < price.since < end for price in prices)
        assert end <= month_of(line.starts_at, zone).ends_at
    assert all(one.ends_at is not None for one, _next in pairwise(lines))


def test_an_hours_rate_has_four_decimals_and_a_month_is_730_of_them() -> None:
    assert hourly(Decimal("0.1"), 50) == Decimal("0.0068")
    assert monthly(Decimal("0.1"), 50, "EUR") == Decimal("4.96")
    assert monthly(Decimal(10), 50, "JPY") == Decimal(500)


def an_office() -> Office:
    office = Office(start=datetime(2026, 2, 10, 9, tzinfo=UTC))
    pool = StoragePool.objects.create(name="studio")
    Host.objects.filter(pk=office.host.row.pk).update(pool=pool)
    return office


def cost(office: Office, per_gib_month: str, **facts: str) -> StorageRate:
    return set_storage_rate(
        actor=office.actor(office.petra),
        per_gib_month=Decimal(per_gib_month),
        currency=facts.get("currency", "EUR"),
        now=office.now,
    )


def check(office: Office) -> None:
    office.tick()
    assert run_checks(office.now) == []
    assert verify_log().problems == []


def pass_to(office: Office, at: datetime) -> None:
    office.now = at
    office.hear()
    office.tick()


@pytest.mark.django_db
def test_a_volume_is_billed_from_its_first_machine_to_its_removal() -> None:
    """In Berlin, where March has an hour less; at two prices; nothing after it was removed."""
    office = an_office()
    cost(office, "7.3")
    lease = office.use(2, with_home=True)
    assert lease.active_at is not None
    volume = HomeVolume.objects.get()
    assert volume.made_at == lease.active_at
    check(office)
    pass_to(office, datetime(2026, 3, 20, 12, tzinfo=UTC))
    check(office)
    cost(office, "14.6")
    office.tick(after=timedelta(seconds=1))
    pass_to(office, datetime(2026, 4, 2, 9, tzinfo=UTC))
    february = office.close("2026-02").invoices
    march = office.close("2026-03").invoices
    end_of_february = datetime(2026, 2, 28, 23, tzinfo=UTC)
    kept = int((end_of_february - volume.made_at).total_seconds())
    assert amounts(february[0])[-1] == (kept, (Decimal(kept) / 7200).quantize(Decimal("0.01")))
    assert [seconds for seconds, _amount in amounts(march[0])] == [
        int((datetime(2026, 3, 20, 12, tzinfo=UTC) - end_of_february).total_seconds()),
        int((datetime(2026, 3, 31, 22, tzinfo=UTC) - datetime(2026, 3, 20, 12, tzinfo=UTC)).total_seconds()),
    ]
    assert [line.rate_per_hour for line in march[0].lines.all()] == [Decimal("0.5"), Decimal(1)]
    assert {line.person_name for line in march[0].lines.all()} == {str(office.ada)}
    check(office)
    homes.remove_volume(actor=office.actor(office.ada), volume_id=volume.pk, now=office.now)
    check(office)
    pass_to(office, datetime(2026, 6, 1, 9, tzinfo=UTC))
    last = office.close("2026-04").invoices
    begun = datetime(2026, 3, 31, 22, tzinfo=UTC)
    assert amounts(last[0]) == [(35 * 3600, Decimal(35))], (begun, volume)
    assert office.close("2026-05").invoices == []
    assert not office.close("2026-04").fresh
    assert not UsageSegment.objects.filter(ends_at=None).exists()
    check(office)


@pytest.mark.django_db
def test_without_a_price_it_is_free_and_from_the_first_price_on_it_costs() -> None:
    office = an_office()
    office.use(2, with_home=True)
    office.tick(after=48 * HOUR)
    assert not UsageSegment.objects.filter(volume__isnull=False).exists()
    check(office)
    begins = office.now
    cost(office, "7.3")
    office.tick(after=timedelta(seconds=1))
    kept = UsageSegment.objects.get(volume__isnull=False)
    assert (kept.starts_at, kept.ends_at, kept.rate_per_hour) == (begins, None, Decimal("0.5"))
    check(office)


@pytest.mark.django_db
def test_a_draft_a_budget_and_an_export_have_it() -> None:
    office = an_office()
    cost(office, "7.3")
    set_budget(
        actor=office.actor(office.petra),
        tenant=office.studio,
        value=Decimal(10),
        currency="EUR",
        now=office.now,
    )
    office.use(2, with_home=True)
    volume = HomeVolume.objects.get()
    assert volume.made_at is not None
    office.now = volume.made_at + 10 * HOUR
    (told,) = draft(office.studio, "2026-02", now=office.now)
    assert [(line.amount, line.gpus) for line in told.lines if line.lease is None] == [(Decimal(5), 0)]
    budget = budget_of(office.studio, now=office.now)
    month_end = datetime(2026, 2, 28, 23, tzinfo=UTC)
    rest = Decimal(int((month_end - office.now).total_seconds())) / 7200
    assert budget.forecasts[0].certain == told.totals.net + rest.quantize(Decimal("0.01"))
    lease = office.book(2)
    assert "budget" in lease.needs_approval_because.in_english() or lease.needs_approval_because
    line = next(one for one in read_lines(Billed.everything(), now=office.now) if one.kept)
    assert (line.machine_name, line.gib, line.gpus, line.amount) == (volume.name, 50, 0, Decimal(5))
    made = export_usage(
        actor=SYSTEM, billed=Billed.everything(), chosen=UsageFilter(tenant="studio"), form="focus-csv",
        now=office.now,
    )  # fmt: skip
    text = "".join(piece if isinstance(piece, str) else piece.decode() for piece in made.pieces())
    assert "GiB-Hours" in text
    assert "Home volume, 50 GiB, stored" in text
    check(office)


@pytest.mark.django_db
def test_a_volume_that_no_machine_ever_had_is_not_billed() -> None:
    office = an_office()
    cost(office, "7.3")
    lease = office.book(2, with_home=True)
    office.tick()
    assert HomeVolume.objects.get().made_at is None
    office.give_back(lease)
    assert not UsageSegment.objects.exists()
    check(office)


@pytest.mark.django_db
def test_prices_are_set_by_those_who_manage_the_money_and_not_for_the_past() -> None:
    office = an_office()
    cost(office, "7.3")
    with pytest.raises(InvalidRequest, match="already"):
        cost(office, "8")
    with pytest.raises(InvalidRequest, match="now or later"):
        set_storage_rate(
            actor=office.actor(office.petra), per_gib_month=Decimal(1), currency="EUR",
            valid_from=office.now - HOUR, now=office.now,
        )  # fmt: skip
    with pytest.raises(NotVisible):
        set_storage_rate(
            actor=office.actor(office.ada), per_gib_month=Decimal(1), currency="EUR", now=office.now
        )


@pytest.mark.django_db
def test_fsck_finds_what_was_not_kept_and_what_is_missing() -> None:
    office = an_office()
    cost(office, "7.3")
    office.use(2, with_home=True)
    kept = UsageSegment.objects.get(volume__isnull=False)
    UsageSegment.objects.filter(pk=kept.pk).update(rate_per_hour=Decimal(9))
    assert {finding.check for finding in run_checks(office.now)} == {"storage"}
    kept.delete()
    assert [finding.check for finding in run_checks(office.now)] == ["storage"]
