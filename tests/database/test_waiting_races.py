"""Two acts on one offer, or on what is kept, at the same instant: one outcome, and all is in order after it.

Set LEASEHOLD_RACES to run each of them more often.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection

from hosts.models import Host
from leasing import tick, transactions
from leasing.changing import change_end
from leasing.errors import DomainError, NothingFree, WrongState
from leasing.fsck import run_checks
from leasing.maintenance.plan import Plan
from leasing.maintenance.service import PlanChanged, drain, lift_closure, open_closures, preview_drain
from leasing.models import Lease, WaitlistEntry
from leasing.timing import CLAIM_WINDOW
from leasing.waitlist import claim_offer, decline_offer, leave_waitlist, outlook
from tests.domain.test_waitlist import HOUR, House, offer_of, reloaded

ONE_WRITER = settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(240),
    pytest.mark.skipif(ONE_WRITER, reason="SQLite lets one transaction write at a time: there is no race"),
]
RACES = int(os.environ.get("LEASEHOLD_RACES", "2"))

Act = Callable[[], Any]


class Race(House):
    """A house in which everything is free, and ada may wait for what somebody gives back."""

    def __init__(self, *more_hosts: str) -> None:
        super().__init__()
        for name in more_hosts:
            self.admit(self.enrol(name), 1)
        self.clear()

    def run(self, *contests: Callable[[Race, int], None]) -> None:
        """Each of them, each act once as the first to be begun and once as the second."""
        for contest in contests:
            for number in range(RACES):
                contest(self, number % 2)
                assert run_checks(self.now) == [], contest
                self.clear()

    def offer(self) -> WaitlistEntry:
        """What ada waits for is offered to her."""
        full = [self.book(self.eve, start=1, hours=12) for _host in Host.objects.all()]
        entry = self.join(self.ada)
        for lease in full:
            self.end(lease)
        self.tick()
        assert offer_of(entry)
        return entry

    def claim(self, entry: WaitlistEntry, *, at: datetime | None = None) -> Act:
        return partial(claim_offer, actor=self.actor(self.ada), entry_id=entry.pk, now=at or self.now)

    def drain(self, host: Host, starts: float, ends: float) -> Act:
        """Close a host as it is shown now, before anybody does anything."""
        window = {"starts_at": self.now + starts * HOUR, "ends_at": self.now + ends * HOUR, "now": self.now}
        acting: dict[str, Any] = {"actor": self.actor(self.operator), "what": host, **window}
        return partial(drain, reason="dust", seen=preview_drain(**acting).seen, **acting)

    def reopen(self) -> None:
        for closure in open_closures(now=self.now):
            lift_closure(actor=self.actor(self.operator), closure_id=closure.pk, now=self.now)

    def clear(self) -> None:
        """Everything is given up."""
        self.reopen()
        for entry in WaitlistEntry.objects.filter(closed_at=None):
            leave_waitlist(actor=self.actor(entry.owner), entry_id=entry.pk, now=self.now)
        for lease in Lease.objects.filter(state="scheduled"):
            self.end(lease)
        self.tick()


def test_on_one_host_every_contest_has_one_outcome(caplog: pytest.LogCaptureFixture) -> None:
    Race().run(
        claim_or_run_out,
        partial(claim_or_give_up, leave_waitlist),
        partial(claim_or_give_up, decline_offer),
        claim_twice,
        claim_or_drain,
        extend_or_keep,
    )
    assert failures_in(caplog) == []


def test_on_two_hosts_drains_wait_for_claims_and_for_each_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction is given up: all lock leases and blocks in one order."""
    given_up: list[OperationalError] = []
    is_passing = transactions._is_passing

    def note(error: OperationalError) -> bool:
        given_up.append(error)
        return is_passing(error)

    monkeypatch.setattr(transactions, "_is_passing", note)
    Race("hv2").run(claim_and_drain, crossing_drains)
    assert (given_up, failures_in(caplog)) == ([], [])


def claim_or_run_out(race: Race, swap: int) -> None:
    """A claim in the last moment, and the tick that passes the offer on."""
    entry = race.offer()
    ends = race.now + CLAIM_WINDOW
    in_time = race.claim(entry, at=ends - timedelta(microseconds=1))
    claimed, _ = at_once(in_time, partial(tick.pass_unclaimed_on, ends), swap=swap)
    lease, entry = Lease.objects.get(entry=entry), reloaded(entry)
    if isinstance(claimed, Lease):
        assert (lease.state, entry.outcome, entry.passes) == ("scheduled", "served", 0)
    else:
        assert isinstance(claimed, WrongState)
        assert (lease.outcome, entry.closed_at, entry.passes) == ("passed", None, 1)


def claim_or_give_up(give_up: Callable[..., WaitlistEntry], race: Race, swap: int) -> None:
    """In two windows of one browser."""
    entry = race.offer()
    other = partial(give_up, actor=race.actor(race.ada), entry_id=entry.pk, now=race.now)
    claimed, given_up = at_once(race.claim(entry), other, swap=swap)
    lease, entry = Lease.objects.get(entry=entry), reloaded(entry)
    if isinstance(claimed, Lease):
        assert isinstance(given_up, WrongState)
        assert (lease.state, entry.outcome) == ("scheduled", "served")
    else:
        assert isinstance(claimed, WrongState)
        assert isinstance(given_up, WaitlistEntry)
        assert (lease.state, lease.holds.count()) == ("ended", 0)
        assert entry.outcome == ("left" if give_up is leave_waitlist else "")


def claim_twice(race: Race, _swap: int) -> None:
    entry = race.offer()
    answers = at_once(race.claim(entry), race.claim(entry))
    assert sorted(type(answer).__name__ for answer in answers) == ["Lease", "WrongState"]
    assert Lease.objects.get(entry=entry).state == "scheduled"


def claim_or_drain(race: Race, swap: int) -> None:
    """The operator was shown that an offer is taken back; a booking that stays is another matter."""
    entry = race.offer()
    claimed, drained = at_once(race.claim(entry), race.drain(race.host.row, 1, 13), swap=swap)
    lease, entry = Lease.objects.get(entry=entry), reloaded(entry)
    if isinstance(claimed, Lease):
        assert isinstance(drained, PlanChanged)
        assert (lease.state, lease.holds.count()) == ("scheduled", 1)
        assert not open_closures(now=race.now).exists()
    else:
        assert isinstance(claimed, WrongState)
        assert isinstance(drained, Plan)
        assert (lease.outcome, entry.closed_at, entry.passes) == ("withdrawn", None, 0)


def extend_or_keep(race: Race, swap: int) -> None:
    """Whoever is second sees the first: it is in the way, or refused."""
    lease = race.book(race.eve, start=1, hours=4)
    race.book(race.bob, start=9, hours=4)
    entry = race.join(race.ada, hours=4, start=4, deadline=12)
    later = race.now + 8.5 * HOUR
    extend = partial(change_end, actor=race.actor(race.eve), lease_id=lease.pk, ends_at=later, now=race.now)
    extended, _ = at_once(extend, partial(tick.serve_lines, race.now), swap=swap)
    race.tick()
    kept = outlook(reloaded(entry), now=race.now)
    if isinstance(extended, Lease):
        assert (extended.ends_at, kept.kept, kept.in_the_way) == (later, True, 2)
    else:
        assert isinstance(extended, NothingFree)
        assert (kept.kept, kept.in_the_way) == (True, 1)


def claim_and_drain(race: Race, swap: int) -> None:
    """Where the offer can move, both are done."""
    entry = race.offer()
    host = Lease.objects.get(entry=entry).holds.get().gpu.host
    claimed, drained = at_once(race.claim(entry), race.drain(host, 1, 13), swap=swap)
    assert isinstance(claimed, Lease)
    assert isinstance(drained, Plan)
    lease = Lease.objects.get(entry=entry)
    assert (lease.state, lease.holds.get().gpu.host_id != host.pk) == ("scheduled", True)


def crossing_drains(race: Race, swap: int) -> None:
    """Two operators drain two hosts, each of which takes the other's leases."""
    first, second = Host.objects.order_by("name")
    race.drain(second, 1, 5)()
    mornings = [race.book(race.ada, start=start, hours=0.5) for start in (1, 2, 3, 4)]
    race.drain(first, 5, 9)()
    afternoons = [race.book(race.bob, start=start, hours=0.5) for start in (5.2, 6, 7, 8)]
    race.reopen()
    drains = race.drain(first, 0.5, 4.9), race.drain(second, 5, 9)
    assert [type(one) for one in at_once(*drains, swap=swap)] == [Plan, Plan]
    assert {lease.holds.get().gpu.host for lease in mornings} == {second}
    assert {lease.holds.get().gpu.host for lease in afternoons} == {first}


def at_once(*acts: Act, swap: int = 0) -> list[Any]:
    """What each act came to, a refusal in words included. Any other failure fails the test."""
    start = threading.Barrier(len(acts))

    def perform(act: Act) -> Any:
        try:
            connection.ensure_connection()
            start.wait()
            return act()
        except DomainError as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(acts)) as pool:
        in_turn = list(reversed(acts)) if swap else list(acts)
        answers = [running.result() for running in [pool.submit(perform, act) for act in in_turn]]
    return list(reversed(answers)) if swap else answers


def failures_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """A tick that was given up says so in its log alone."""
    return [one.message for one in caplog.records if one.levelname == "ERROR"]
