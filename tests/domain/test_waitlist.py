"""Waiting in line: who is offered what, until when, and what becomes of it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from hosts.models import Gpu
from leasing import policy
from leasing.actors import SYSTEM
from leasing.booking import request_lease
from leasing.changing import change_end, change_window
from leasing.ending import end_lease
from leasing.errors import InvalidRequest, NothingFree, NotVisible, WrongState
from leasing.exports.filter import Billed
from leasing.exports.lines import read_lines
from leasing.fsck import run_checks
from leasing.metering import terms
from leasing.models import AuditEntry, Flavor, Lease, Notification, Person, Rate, Tenant, WaitlistEntry
from leasing.quotas import check, set_quota
from leasing.states.gpu import GpuEvent
from leasing.timing import CLAIM_WINDOW, SHORTEST_CLAIM
from leasing.transitions import apply_gpu_event
from leasing.waitlist import (
    MOST_ENTRIES,
    change_deadline,
    claim_offer,
    decline_offer,
    entries_of,
    join_waitlist,
    leave_waitlist,
    outlook,
)
from tests.world import World, person

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class House(World):
    """One host that is booked out for twelve hours, one hour from now, by somebody of another team."""

    def __init__(self, gpus: int = 1) -> None:
        super().__init__(gpus=gpus, concurrent_gpus=9)
        self.joined = 0
        self.eve = person("eve")
        policy.grant_role(actor=SYSTEM, person=self.eve, tenant=self.research, role="member", now=self.now)
        self.booked = [self.book(self.eve, start=1, hours=12) for _gpu in range(gpus)]
        self.tick()

    def book(self, who: Person, *, start: float = 0, hours: float = 1, flavor: Flavor | None = None) -> Lease:
        starts_at = self.now + start * HOUR
        return request_lease(
            actor=self.actor(who),
            tenant=self.team(who),
            flavor=flavor or self.flavor,
            image=self.image,
            starts_at=starts_at,
            ends_at=starts_at + hours * HOUR,
            now=self.now,
        )

    def join(
        self,
        who: Person,
        *,
        hours: float = 8,
        start: float = 1,
        deadline: float = 13,
        flavor: Flavor | None = None,
    ) -> WaitlistEntry:
        self.joined += 1
        return join_waitlist(
            actor=self.actor(who),
            tenant=self.team(who),
            flavor=flavor or self.flavor,
            image=self.image,
            duration=hours * HOUR,
            earliest=self.now + start * HOUR,
            deadline=self.now + deadline * HOUR,
            purpose="frames",
            now=self.now + self.joined * timedelta(microseconds=1),
        )

    def team(self, who: Person) -> Tenant:
        return policy.tenants_with_role(who, "member").get()

    def end(self, lease: Lease) -> None:
        end_lease(actor=self.actor(lease.owner), lease_id=lease.pk, now=self.now)

    def pair(self) -> Flavor:
        flavor = Flavor.objects.create(slug="pair", name="Pair", model=self.model, gpu_count=2)
        self.price(flavor)
        return flavor


def offer_of(entry: WaitlistEntry) -> Lease | None:
    return Lease.objects.filter(entry=entry, state="offered").first()


def offered(entry: WaitlistEntry) -> Lease:
    found = offer_of(entry)
    assert found is not None
    return found


def reloaded(entry: WaitlistEntry) -> WaitlistEntry:
    return WaitlistEntry.objects.get(pk=entry.pk)


def test_what_is_freed_is_held_for_the_first_in_line() -> None:
    house = House()
    first, second = house.join(house.ada), house.join(house.bob)
    house.tick()
    assert Lease.objects.filter(state="offered").count() == 0
    house.end(house.booked[0])
    house.tick()
    offer = offered(first)
    assert offer_of(second) is None
    assert (offer.owner, offer.tenant, offer.purpose) == (house.ada, house.studio, "frames")
    assert (offer.starts_at, offer.ends_at) == (house.now + HOUR, house.now + 9 * HOUR)
    assert offer.decide_by == house.now + CLAIM_WINDOW
    assert offer.quoted_total == Decimal("30.40")
    assert offer.holds.count() == 1
    told = Notification.objects.get(recipient=house.ada)
    assert told.kind == "waitlist-offer"
    assert "free for you" in told.subject
    assert run_checks(house.now) == []


def test_two_that_fit_one_after_the_other_are_both_offered() -> None:
    house = House()
    first, second = house.join(house.ada, hours=5), house.join(house.bob, hours=5)
    house.end(house.booked[0])
    house.tick()
    assert offered(first).starts_at == house.now + HOUR
    assert offered(second).starts_at > offered(first).ends_at


def test_only_what_nobody_can_have_is_waited_for() -> None:
    house = House()
    with pytest.raises(InvalidRequest, match="nothing to wait for") as refused:
        house.join(house.ada, deadline=23)
    assert refused.value.hint == "Book it."
    with pytest.raises(InvalidRequest, match="cannot end by then"):
        house.join(house.ada, hours=14)
    with pytest.raises(InvalidRequest, match="so many of these GPUs") as refused:
        house.join(house.ada, flavor=house.pair())
    assert refused.value.field == "flavor"
    with pytest.raises(NotVisible):
        join_waitlist(
            actor=house.actor(house.ada), tenant=house.research, flavor=house.flavor, image=house.image,
            duration=HOUR, deadline=house.now + 9 * HOUR, now=house.now,
        )  # fmt: skip


def test_so_many_entries_may_a_person_have() -> None:
    house = House()
    entries = [house.join(house.ada) for _ in range(MOST_ENTRIES)]
    with pytest.raises(WrongState, match="5 times"):
        house.join(house.ada)
    leave_waitlist(actor=house.actor(house.ada), entry_id=entries[0].pk, now=house.now)
    house.join(house.ada)


def test_a_claim_is_a_booking_at_the_price_that_was_offered() -> None:
    house = House()
    entry = house.join(house.ada)
    house.end(house.booked[0])
    house.tick()
    Rate.objects.create(flavor=house.flavor, per_hour=Decimal(99), currency="EUR", valid_from=house.now)
    house.now += 20 * MINUTE
    lease = claim_offer(actor=house.actor(house.ada), entry_id=entry.pk, now=house.now)
    assert (lease.state, lease.decide_by, lease.rate_per_hour) == ("scheduled", None, Decimal("3.8"))
    assert policy.visible_leases(house.ada).get() == lease
    entry = reloaded(entry)
    assert (entry.outcome, entry.closed_at) == ("served", house.now)
    with pytest.raises(WrongState):
        claim_offer(actor=house.actor(house.ada), entry_id=entry.pk, now=house.now)
    claimed = AuditEntry.objects.get(action="lease.claim")
    assert '"limits":[{"counted"' in claimed.text
    assert run_checks(house.now) == []


def test_a_claim_outside_the_limits_waits_for_an_approver_with_its_gpus() -> None:
    house = House()
    entry = house.join(house.ada)
    house.end(house.booked[0])
    house.tick()
    Tenant.objects.update(concurrent_gpus=0)
    lease = claim_offer(actor=house.actor(house.ada), entry_id=entry.pk, now=house.now)
    assert (lease.state, lease.decide_by, lease.holds.count()) == ("requested", lease.starts_at, 1)
    assert lease.needs_approval_because
    assert Notification.objects.filter(recipient=house.approver, kind="lease-request").exists()
    assert reloaded(entry).outcome == "served"
    house.tick(after=HOUR)
    assert Lease.objects.get(pk=lease.pk).outcome == "expired"
    assert run_checks(house.now) == []


def test_an_offer_counts_neither_as_usage_nor_as_money() -> None:
    house = House()
    entry = house.join(house.ada)
    house.end(house.booked[0])
    house.tick()
    offer = offered(entry)
    Tenant.objects.update(concurrent_gpus=1)
    set_quota(actor=SYSTEM, tenant=house.studio, kind="gpu-hours", value=Decimal(8), now=house.now)
    verdict = check(
        tenant=house.studio, person=house.ada, flavor=house.flavor, starts_at=offer.starts_at,
        ends_at=offer.ends_at, terms=terms(offer), currency="EUR", now=house.now,
    )  # fmt: skip
    assert not verdict.reason
    assert list(read_lines(Billed.everything(), now=house.now)) == []
    assert not policy.visible_leases(house.ada).exists()
    assert not policy.visible_leases(house.auditor).filter(state="offered").exists()


def test_an_offer_that_runs_out_passes_to_the_next() -> None:
    house = House()
    first, second = house.join(house.ada), house.join(house.bob)
    house.end(house.booked[0])
    house.tick()
    run_out = offered(first)
    house.tick(after=CLAIM_WINDOW - timedelta(seconds=1))
    assert offer_of(second) is None
    house.tick(after=timedelta(seconds=1))
    assert offered(second).starts_at == run_out.starts_at
    run_out.refresh_from_db()
    assert (run_out.state, run_out.outcome, run_out.holds.count()) == ("ended", "passed", 0)
    assert reloaded(first).closed_at is None, "who let one pass keeps their place"
    assert Notification.objects.filter(recipient=house.ada, kind="waitlist-passed").exists()
    with pytest.raises(WrongState, match="passed to the next"):
        claim_offer(actor=house.actor(house.ada), entry_id=first.pk, now=house.now)
    assert run_checks(house.now) == []


def test_what_was_let_pass_is_not_offered_again_but_the_rest_is() -> None:
    house = House()
    entry = house.join(house.ada, hours=3)
    house.end(house.booked[0])
    house.tick()
    declined = offered(entry)
    decline_offer(actor=house.actor(house.ada), entry_id=entry.pk, now=house.now)
    house.tick()
    assert offered(entry).starts_at == declined.ends_at


def test_who_lets_three_offers_pass_is_no_longer_in_line() -> None:
    house = House()
    entry = house.join(house.ada, hours=3)
    house.end(house.booked[0])
    for _chance in range(3):
        house.tick()
        assert offer_of(entry)
        decline_offer(actor=house.actor(house.ada), entry_id=entry.pk, now=house.now)
    house.tick()
    entry = reloaded(entry)
    assert (entry.outcome, str(entry.outcome_reason)) == ("passed", "You let 3 offers pass.")
    assert offer_of(entry) is None
    assert run_checks(house.now) == []


def test_claim_windows_are_shorter_when_the_slot_is_near() -> None:
    house = House()
    near = house.join(house.ada, hours=1, deadline=2)
    house.now += 45 * MINUTE
    house.end(house.booked[0])
    house.tick()
    offer = offered(near)
    assert offer.decide_by == offer.starts_at == house.now + 15 * MINUTE


def test_what_begins_at_once_is_held_shortly_and_keeps_its_end() -> None:
    house = House()
    entry = house.join(house.ada, hours=2, deadline=4)
    house.now += 90 * MINUTE
    house.end(Lease.objects.get(pk=house.booked[0].pk))
    house.tick()
    offer = offered(entry)
    assert (offer.starts_at, offer.decide_by) == (house.now, house.now + SHORTEST_CLAIM)
    house.now += 8 * MINUTE
    lease = claim_offer(actor=house.actor(house.ada), entry_id=entry.pk, now=house.now)
    assert (lease.starts_at, lease.ends_at) == (house.now, offer.ends_at)
    assert lease.quoted_total == Decimal("7.09")
    house.host.inventory(house.gpus[0].address, at=house.now)
    house.tick()
    assert Lease.objects.get(pk=lease.pk).state == "provisioning"
    assert run_checks(house.now) == []


def test_a_passer_by_never_comes_before_those_who_wait() -> None:
    house = House()
    entry = house.join(house.ada)
    house.end(house.booked[0])
    with pytest.raises(NothingFree):
        house.book(house.bob, start=1, hours=12)
    assert offer_of(entry) is None, "his booking came to nothing, and all that it did"
    house.book(house.bob, start=10, hours=2)
    assert offered(entry).starts_at == house.now + HOUR
    assert run_checks(house.now) == []


def test_nor_does_somebody_who_moves_their_booking() -> None:
    house = House()
    entry = house.join(house.ada)
    later = house.book(house.bob, start=20, hours=12)
    house.end(house.booked[0])
    with pytest.raises(NothingFree):
        change_window(
            actor=house.actor(house.bob), lease_id=later.pk, starts_at=house.now + HOUR,
            ends_at=house.now + 13 * HOUR, now=house.now,
        )  # fmt: skip
    house.tick()
    assert offer_of(entry) is not None


def test_what_somebody_moves_within_their_own_time_stays_theirs() -> None:
    house = House()
    house.join(house.ada, hours=4, deadline=8)
    mine = house.booked[0]
    change_window(
        actor=house.actor(house.eve), lease_id=mine.pk, starts_at=house.now + 2 * HOUR,
        ends_at=house.now + 13 * HOUR, now=house.now,
    )  # fmt: skip
    house.tick()
    assert Lease.objects.get(pk=mine.pk).starts_at == house.now + 2 * HOUR
    assert not Lease.objects.filter(state="offered").exists()


def test_everything_that_frees_is_offered_at_the_next_tick() -> None:
    house = House(gpus=2)
    shorter, later = house.booked
    first = house.join(house.ada, hours=4)
    change_end(actor=house.actor(house.eve), lease_id=shorter.pk, ends_at=house.now + 5 * HOUR, now=house.now)
    house.tick()
    assert offered(first).starts_at >= house.now + 5 * HOUR
    second = house.join(house.bob, hours=10)
    change_window(
        actor=house.actor(house.eve), lease_id=later.pk, starts_at=house.now + 30 * HOUR,
        ends_at=house.now + 31 * HOUR, now=house.now,
    )  # fmt: skip
    house.tick()
    assert offered(second).starts_at == house.now + HOUR
    gpu = Gpu.objects.get(pk=house.gpus[0].pk)
    assert run_checks(house.now) == []
    assert gpu.state == "clean"


def test_a_gpu_that_comes_into_service_is_offered() -> None:
    house = House()
    entry = house.join(house.ada)
    house.admit(house.enrol("hv2"), 1)
    house.tick()
    assert offer_of(entry) is not None


def test_an_offer_moves_when_its_gpu_breaks() -> None:
    house = House(gpus=2)
    entry = house.join(house.ada)
    for lease in house.booked:
        house.end(lease)
    house.tick()
    broken = offered(entry).holds.get().gpu
    quarantine(house, broken)
    house.tick()
    assert offered(entry).holds.get().gpu != broken
    assert run_checks(house.now) == []


def test_or_is_taken_back_and_its_owner_waits_on_in_their_place() -> None:
    house = House()
    entry, behind = house.join(house.ada), house.join(house.bob)
    house.end(house.booked[0])
    house.tick()
    quarantine(house, offered(entry).holds.get().gpu)
    house.tick()
    assert offer_of(entry) is None
    assert (reloaded(entry).passes, reloaded(entry).closed_at) == (0, None)
    told = Notification.objects.get(recipient=house.ada, kind="waitlist-passed")
    assert "You keep your place" in told.body
    apply_gpu_event(
        gpu_id=house.gpus[0].pk, event=GpuEvent.READMIT, actor=SYSTEM, effective_at=house.now, now=house.now
    )
    house.tick()
    assert offer_of(entry) is not None, "the same time, which nobody let pass"
    assert offer_of(behind) is None


def test_who_is_no_longer_a_member_is_passed_over() -> None:
    house = House()
    entry, behind = house.join(house.ada), house.join(house.bob)
    policy.revoke_role(actor=SYSTEM, person=house.ada, tenant=house.studio, role="member", now=house.now)
    assert not entries_of(house.ada).exists()
    house.end(house.booked[0])
    house.tick()
    assert reloaded(entry).outcome == "withdrawn"
    assert offer_of(behind) is not None


def test_who_loses_the_role_cannot_claim() -> None:
    house = House()
    entry = house.join(house.ada)
    house.end(house.booked[0])
    house.tick()
    policy.revoke_role(actor=SYSTEM, person=house.ada, tenant=house.studio, role="member", now=house.now)
    with pytest.raises(NotVisible):
        claim_offer(actor=house.actor(house.ada), entry_id=entry.pk, now=house.now)


def test_what_is_no_longer_offered_is_not_waited_for() -> None:
    house = House()
    entry = house.join(house.ada)
    Flavor.objects.update(offered=False)
    house.end(house.booked[0])
    house.tick()
    assert str(reloaded(entry).outcome_reason) == "This workstation or its system is no longer offered."


def test_what_cannot_end_by_its_deadline_lapses() -> None:
    house = House()
    entry = house.join(house.ada)
    house.tick(after=5 * HOUR)
    assert reloaded(entry).closed_at is None
    house.tick(after=timedelta(seconds=1))
    assert reloaded(entry).outcome == "lapsed"
    assert Notification.objects.filter(recipient=house.ada, kind="waitlist-end").exists()
    assert run_checks(house.now) == []


def test_another_deadline_keeps_the_place() -> None:
    house = House()
    entry, behind = house.join(house.ada), house.join(house.bob)
    actor = house.actor(house.ada)
    with pytest.raises(InvalidRequest, match="nothing to wait for"):
        change_deadline(actor=actor, entry_id=entry.pk, deadline=house.now + 30 * HOUR, now=house.now)
    change_deadline(actor=actor, entry_id=entry.pk, deadline=house.now + 10 * HOUR, now=house.now)
    house.end(house.booked[0])
    house.tick()
    assert offered(entry).ends_at <= house.now + 10 * HOUR
    assert offer_of(behind) is None
    with pytest.raises(WrongState, match="have an offer"):
        change_deadline(actor=actor, entry_id=entry.pk, deadline=house.now + 11 * HOUR, now=house.now)


def test_who_leaves_gives_the_offer_to_the_next() -> None:
    house = House()
    entry, behind = house.join(house.ada), house.join(house.bob)
    house.end(house.booked[0])
    house.tick()
    leave_waitlist(actor=house.actor(house.ada), entry_id=entry.pk, now=house.now)
    assert reloaded(entry).outcome == "left"
    house.tick()
    assert offer_of(behind) is not None
    assert run_checks(house.now) == []


def test_nobody_else_acts_on_an_entry() -> None:
    house = House()
    entry = house.join(house.ada)
    for act in (claim_offer, decline_offer, leave_waitlist):
        with pytest.raises(NotVisible):
            act(actor=house.actor(house.bob), entry_id=entry.pk, now=house.now)


def test_the_outlook_is_honest() -> None:
    house = House()
    first, second = house.join(house.ada), house.join(house.bob)
    house.tick()
    assert outlook(first, now=house.now).position == 1
    seen = outlook(reloaded(second), now=house.now)
    turnaround = timedelta(seconds=house.model.turnaround_seconds)
    lead = timedelta(seconds=house.model.lead_seconds)
    assert (seen.position, seen.offer) == (2, None)
    assert seen.free_from == house.booked[0].ends_at + turnaround + lead
    kept = outlook(reloaded(first), now=house.now)
    assert (kept.kept, kept.in_the_way, seen.kept) == (True, 1, False)


def test_a_team_that_had_more_joins_further_back() -> None:
    house = House()
    used = Lease.objects.filter(pk=house.booked[0].pk)
    used.update(active_at=house.now - 20 * HOUR, starts_at=house.now - 20 * HOUR)
    theirs, ours = house.join(house.bob), house.join(house.ada)
    assert theirs.rank_at > house.now
    assert ours.rank_at == ours.joined_at > theirs.joined_at
    assert outlook(ours, now=house.now).position == 1
    assert outlook(theirs, now=house.now).position == 2
    Tenant.objects.filter(pk=house.research.pk).update(weight=50)
    assert house.join(house.bob).rank_at < theirs.rank_at


def quarantine(house: House, gpu: Gpu) -> None:
    apply_gpu_event(
        gpu_id=gpu.pk, event=GpuEvent.QUARANTINE, actor=SYSTEM, effective_at=house.now, now=house.now
    )
