"""Ready-made extensions: what is offered can be had, and no more; each at the price in force."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from leasing.actors import SYSTEM
from leasing.booking import request_lease
from leasing.changing import OutsideLimits, change_end
from leasing.errors import NothingFree
from leasing.fsck import run_checks
from leasing.models import Lease, Notification, Person, Rate
from leasing.more_time import MINUTE, Offer, longest_inside, more_time, offered_ends
from leasing.quotas import set_quota
from tests.chosen import chosen, how_many
from tests.world import START, World

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Always the same histories, unless LEASEHOLD_FLEETS asks for that many others.
CHOSEN = chosen(how_many(6))


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 59))
def test_halving_finds_the_last_minute_that_is_inside(inside: int, until: int, seconds: int) -> None:
    last = START + inside * MINUTE
    end = START + until * MINUTE + timedelta(seconds=seconds)
    found = longest_inside(START, end, lambda at: at <= last)
    assert found == (end if end <= last else last)


@pytest.mark.parametrize(
    ("zone", "now", "evening"),
    [
        ("UTC", "2026-03-02T09:00", "2026-03-03T18:00+00:00"),
        ("Asia/Shanghai", "2026-03-02T17:00", "2026-03-04T18:00+08:00"),
        ("Europe/Berlin", "2026-03-28T12:00", "2026-03-29T18:00+02:00"),  # the clocks change that night
    ],
)
def test_tomorrow_evening_is_the_readers(zone: str, now: str, evening: str) -> None:
    at = datetime.fromisoformat(now).replace(tzinfo=START.tzinfo)
    ends = dict(offered_ends(at + HOUR, at + 9 * DAY, at + 9 * DAY, zone=zone, now=at))
    assert ends["evening"] == datetime.fromisoformat(evening)
    assert ends["evening"].astimezone(ZoneInfo(zone)).hour == 18


def test_each_end_is_offered_once_and_none_that_is_taken() -> None:
    ends = offered_ends(START, START + 4 * HOUR, START + 5 * HOUR, zone="UTC", now=START)
    assert ends == [("hour", START + HOUR), ("longest", START + 4 * HOUR)]
    assert offered_ends(START, START, START + HOUR / 2, zone="UTC", now=START) == []


@pytest.fixture
def world() -> World:
    return World(gpus=1, concurrent_gpus=9)


def book(world: World, starts: timedelta, ends: timedelta) -> Lease:
    return request_lease(
        actor=world.actor(world.ada), tenant=world.studio, flavor=world.flavor, image=world.image,
        starts_at=world.now + starts, ends_at=world.now + ends, now=world.now,
    )  # fmt: skip


def running(world: World) -> Lease:
    lease = book(world, timedelta(0), 2 * HOUR)
    world.start(lease)
    return lease


def offers(world: World, lease: Lease) -> dict[str, Offer]:
    return {offer.name: offer for offer in more_time(lease, now=world.now).offers}


@pytest.mark.django_db
def test_offers_have_the_price_that_is_in_force_now(world: World) -> None:
    lease = running(world)
    Rate.objects.create(flavor=world.flavor, per_hour=Decimal(5), currency="EUR", valid_from=world.now)
    found = offers(world, lease)
    assert [found[name].quote.total for name in ("hour", "four-hours")] == [Decimal(5), Decimal(20)]
    assert found["longest"].ends_at == lease.starts_at + 168 * HOUR
    assert str(more_time(lease, now=world.now).why_not_longer).startswith("Longer than the 168 hours")


@pytest.mark.django_db
def test_without_a_price_nothing_is_offered_and_it_says_why(world: World) -> None:
    lease = running(world)
    Rate.objects.update(valid_until=world.now)
    more = more_time(lease, now=world.now)
    assert (more.offers, more.why_not_longer.code) == ([], "no-price")


@pytest.mark.django_db
def test_nothing_is_offered_while_the_host_has_yet_to_answer(world: World) -> None:
    lease = running(world)
    change_end(actor=world.actor(world.ada), lease_id=lease.pk, ends_at=lease.ends_at + HOUR, now=world.now)
    more = more_time(lease, now=world.now)
    assert (more.offers, more.pending_until) == ([], lease.ends_at + HOUR)


@pytest.mark.django_db
def test_the_warning_offers_them_and_says_where_one_click_does_it(world: World) -> None:
    Person.objects.filter(pk=world.ada.pk).update(timezone="Europe/Berlin", language="zh-hans")
    lease = running(world)
    book(world, 5 * HOUR, 6 * HOUR)
    world.tick(after=HOUR)
    notice = Notification.objects.get(lease=lease, kind="lease-ends-soon")
    assert notice.body.endswith(f"http://127.0.0.1:8000/workstations/{lease.pk}/extend/")
    assert "+1 小时，至 2026年3月2日 13:00：3.80 EUR" in notice.body
    assert "最多至 2026年3月2日 14:53，之后已被他人预订" in notice.body
    lease.refresh_from_db()
    assert lease.ends_at == START + 2 * HOUR, "the warning changes nothing"


acts = st.lists(st.tuples(st.integers(3, 60), st.integers(1, 30)), max_size=4)


@pytest.mark.django_db
@CHOSEN
@given(acts, st.sampled_from(["gpus", "gpu-hours", "longest", "budget"]), st.integers(1, 60))
def test_what_is_offered_can_be_had_and_no_more(others: list[tuple[int, int]], kind: str, value: int) -> None:
    """Whoever comes next on the GPU, and whatever the limits are."""
    with transaction.atomic():
        world = World(gpus=1, concurrent_gpus=9)
        lease = running(world)
        for start, length in others:
            with suppress(NothingFree), transaction.atomic():
                book(world, start * HOUR, (start + length) * HOUR)
        currency = "EUR" if kind == "budget" else ""
        set_quota(
            actor=SYSTEM, tenant=world.studio, kind=kind, value=Decimal(value), currency=currency,
            now=world.now,
        )  # fmt: skip
        more = more_time(lease, now=world.now)
        for offer in more.offers:
            assert clicked(world, lease, offer.ends_at) == ("outside" if offer.outside else "done")
        inside = [offer.ends_at for offer in more.offers if not offer.outside]
        if more.limit.until < lease.starts_at + 365 * DAY or more.why_not_longer:
            assert clicked(world, lease, max([lease.ends_at, *inside]) + MINUTE) != "done"
        assert [finding for finding in run_checks(world.now) if finding.check != "audit"] == []
        transaction.set_rollback(True)


def clicked(world: World, lease: Lease, ends_at: datetime) -> str:
    """What became of a click, which is undone again."""
    savepoint = transaction.savepoint()
    try:
        change_end(actor=world.actor(world.ada), lease_id=lease.pk, ends_at=ends_at, now=world.now)
    except OutsideLimits:
        return "outside"
    except NothingFree:
        return "taken"
    else:
        return "done"
    finally:
        transaction.savepoint_rollback(savepoint)
