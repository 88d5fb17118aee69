"""What is kept for the first in line: nobody starves, grows into it, or is left out when it is given up."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from leasing import changing, keeping, latest_end
from leasing.actors import SYSTEM
from leasing.changing import change_end
from leasing.errors import NothingFree
from leasing.fsck import run_checks
from leasing.latest_end import ExtensionLimit
from leasing.maintenance.service import drain, lift_closure, open_closures, preview_drain
from leasing.models import Block, Flavor, Lease, WaitlistEntry
from leasing.slots import find_start, longest_end
from leasing.waitlist import decline_offer
from leasing.wake import wake_control
from tests.domain.test_waitlist import HOUR, MINUTE, House, offer_of, offered, reloaded

pytestmark = pytest.mark.django_db
GPUS = 8


class Busy(House):
    """Of a host with eight GPUs whatever comes free is booked by somebody who passes by, at once."""

    def __init__(self) -> None:
        super().__init__(gpus=GPUS)
        self.opens, self.closes = self.now + HOUR, self.now + 13 * HOUR
        self.all = Flavor.objects.create(slug="all", name="All", model=self.model, gpu_count=GPUS)
        self.price(self.all)
        self.waiting = self.join(self.ada, hours=4, flavor=self.all)
        self.tick()

    def go_on(self) -> None:
        """The oldest booking is given back, and all that is free then is booked by others."""
        self.end(Lease.objects.filter(state__in=["scheduled", "requested"]).earliest("requested_at"))
        self.tick(after=MINUTE)
        while start := self.free_start():
            ends_at = longest_end(self.flavor, start, until=self.closes, now=self.now)
            assert ends_at is not None
            self.book(self.bob, start=(start - self.now) / HOUR, hours=(ends_at - start) / HOUR)

    def free_start(self) -> datetime | None:
        return find_start(self.flavor, HOUR, earliest=self.opens, deadline=self.closes, now=self.now)


def test_eight_gpus_are_had_once_those_who_had_them_have_given_them_back() -> None:
    """However many book single GPUs meanwhile: none of them books into what is kept."""
    house = Busy()
    for _one in range(GPUS - 1):
        house.go_on()
        assert offer_of(house.waiting) is None
    assert Lease.objects.filter(owner=house.bob, state__in=["scheduled", "requested"]).count() == GPUS - 1
    house.go_on()
    offer = offered(house.waiting)
    assert (offer.starts_at, offer.holds.count()) == (house.waiting.last_start_at, GPUS)
    assert run_checks(house.now) == []


def test_they_would_never_be_had_if_nothing_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "keep_for_first", lambda model_id, *, now: None)
    house = Busy()
    for _one in range(GPUS + 1):
        house.go_on()
    assert offer_of(house.waiting) is None


def test_who_gets_another_time_leaves_what_was_kept_for_them_to_the_first_in_line() -> None:
    """Also if that is somebody before them, who was asked in vain a moment ago."""
    house = House()
    set_back = house.join(house.ada, hours=2)
    WaitlistEntry.objects.filter(pk=set_back.pk).update(rank_at=house.now + 5 * HOUR)
    house.tick()
    assert reloaded(set_back).kept_from is not None
    first = house.join(house.bob, hours=2, start=11)
    house.tick()
    house.end(house.booked[0])
    house.tick()
    assert offered(set_back).starts_at == house.now + HOUR
    assert offered(first).starts_at == house.now + 11 * HOUR
    assert run_checks(house.now) == []


def test_what_is_kept_and_comes_free_during_another_offer_is_offered_when_that_is_declined() -> None:
    """No search finds what is kept: it has to be shown to the one for whom it is."""
    house = House()
    house.admit(house.enrol("hv2"), 1)
    house.end(house.booked[0])
    for start, end in ((1, 4), (5, 9), (10, 13)) * 2:
        house.book(house.eve, start=start, hours=end - start)
    entry = house.join(house.ada, hours=2)
    house.tick()
    kept_on = Block.objects.get(kept_for=entry).host_id
    late = Lease.objects.get(holds__gpu__host=kept_on, starts_at=house.now + 10 * HOUR)
    elsewhere = Lease.objects.exclude(holds__gpu__host=kept_on).filter(state="scheduled")
    house.end(elsewhere.get(starts_at=house.now + HOUR))
    house.tick()
    assert offered(entry).starts_at == house.now + HOUR
    house.end(late)
    house.tick()
    decline_offer(actor=house.actor(house.ada), entry_id=entry.pk, now=house.now)
    house.tick()
    offer = offered(entry)
    assert offer.holds.get().gpu.host_id == kept_on
    assert house.now + 9 * HOUR < offer.starts_at < house.now + 10 * HOUR
    assert run_checks(house.now) == []


def test_nobody_extends_into_what_is_kept_while_they_look(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    house.end(house.booked[0])
    lease = house.book(house.eve, start=1, hours=4)
    house.book(house.bob, start=9, hours=4)
    entry = house.join(house.ada, hours=4, start=4, deadline=12)
    look = latest_end.extension_limit

    def look_and_be_overtaken(lease: Lease, *, now: object) -> ExtensionLimit:
        found = look(lease, now=house.now)
        keeping.keep_for_first(house.model.pk, now=house.now)
        return found

    monkeypatch.setattr(changing, "extension_limit", look_and_be_overtaken)
    with pytest.raises(NothingFree, match="kept for somebody in line"):
        change_end(
            actor=house.actor(house.eve), lease_id=lease.pk, ends_at=house.now + 8.5 * HOUR, now=house.now
        )
    assert reloaded(entry).kept_from is None, "all of it has come to nothing"
    change_end(actor=house.actor(house.eve), lease_id=lease.pk, ends_at=house.now + 7 * HOUR, now=house.now)
    assert run_checks(house.now) == []


@pytest.mark.parametrize("whole", [True, False], ids=["host", "gpu"])
def test_what_a_closure_leaves_at_its_end_is_offered_in_line(whole: bool) -> None:
    """By the clock alone, though it could not be had with a lead before it by then."""
    house = House()
    house.end(house.booked[0])
    closes(house, whole, 2 * HOUR)
    entry, behind = (house.join(who, hours=1, start=0, deadline=3) for who in (house.ada, house.bob))
    house.tick(after=2 * HOUR - timedelta(seconds=1))
    assert offer_of(entry) is None
    house.tick(after=timedelta(seconds=1))
    assert offered(entry).starts_at == house.now
    assert offer_of(behind) is None
    assert run_checks(house.now) == []
    assert not open_closures(now=house.now).exists()


def test_what_a_lifted_closure_leaves_is_offered_in_line_at_once(
    django_capture_on_commit_callbacks: object,
) -> None:
    house = House()
    house.end(house.booked[0])
    closes(house, True, None)
    entry = house.join(house.ada)
    house.tick()
    assert offer_of(entry) is None
    (closure,) = open_closures(now=house.now)
    with django_capture_on_commit_callbacks() as woken:  # type: ignore[operator]
        lift_closure(actor=SYSTEM, closure_id=closure.pk, now=house.now)
    assert wake_control in woken
    house.tick()
    assert offered(entry).starts_at == house.now + HOUR
    assert run_checks(house.now) == []


def closes(house: House, whole: bool, after: timedelta | None) -> None:
    """From now on."""
    acting = {
        "actor": SYSTEM,
        "what": house.host.row if whole else house.gpus[0],
        "starts_at": None,
        "ends_at": None if after is None else house.now + after,
        "now": house.now,
    }
    drain(seen=preview_drain(**acting).seen, reason="dust", **acting)  # type: ignore[arg-type]
