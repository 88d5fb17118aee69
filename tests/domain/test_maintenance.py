"""Draining hosts and GPUs: shown first, then done as shown; who moves, who stays, who is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hosts.models import Gpu, Host
from hosts.protocol import messages as m
from leasing.audit.verifier import verify_log
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.errors import InvalidRequest, NothingFree, NotVisible, WrongState
from leasing.fsck import run_checks
from leasing.latest_end import extension_limit
from leasing.maintenance.plan import Fate, Plan, Unmovable, empties_at
from leasing.maintenance.service import (
    PlanChanged,
    change_closure,
    drain,
    lift_closure,
    open_closures,
    preview_change,
    preview_drain,
)
from leasing.models import AuditEntry, Block, Closure, Flavor, Hold, Lease, Notification, WaitlistEntry
from leasing.slots import find_start
from leasing.waitlist import join_waitlist
from tests.world import World

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class TwoHosts(World):
    """Two hosts of two GPUs, and somebody who operates them."""

    def __init__(self) -> None:
        super().__init__(gpus=2, concurrent_gpus=20)
        self.second = self.enrol("hv2")
        self.others = self.admit(self.second, 2)
        self.pair = Flavor.objects.create(slug="pair", name="Pair", model=self.model, gpu_count=2)
        self.price(self.pair)

    def book(self, starts: timedelta, ends: timedelta, *, flavor: Flavor | None = None) -> Lease:
        return request_lease(
            actor=self.actor(self.ada),
            tenant=self.studio,
            flavor=flavor or self.flavor,
            image=self.image,
            starts_at=self.now + starts,
            ends_at=self.now + ends,
            now=self.now,
        )

    def run(self, lease: Lease) -> None:
        self.second.inventory(*(gpu.address for gpu in self.others), at=self.now)
        self.tick()
        host = self.host if lease.holds.get().gpu.host_id == self.host.row.pk else self.second
        order = self.command(lease, "provision")
        host.say(m.Accepted(), at=self.now, command=order)
        host.say(m.MachineRunning(lease_id=lease.pk), at=self.now, command=order)
        lease.refresh_from_db()
        assert lease.state == "active"

    def preview(self, what: Host | Gpu, starts: timedelta, ends: timedelta | None, **more: Unmovable) -> Plan:
        return preview_drain(
            actor=self.actor(self.operator),
            what=what,
            starts_at=self.now + starts,
            ends_at=None if ends is None else self.now + ends,
            now=self.now,
            **more,
        )

    def drain(
        self,
        what: Host | Gpu,
        starts: timedelta,
        ends: timedelta | None,
        *,
        seen: str | None = None,
        **more: Unmovable,
    ) -> Plan:
        return drain(
            actor=self.actor(self.operator),
            what=what,
            starts_at=self.now + starts,
            ends_at=None if ends is None else self.now + ends,
            reason="new firmware",
            seen=self.preview(what, starts, ends, **more).seen if seen is None else seen,
            now=self.now,
            **more,
        )

    def host_of(self, lease: Lease) -> Host:
        (host,) = {hold.gpu.host for hold in lease.holds.all()}
        return host

    def told(self, lease: Lease) -> list[str]:
        return list(Notification.objects.filter(lease=lease).order_by("id").values_list("kind", flat=True))

    def in_order(self) -> None:
        self.tick()
        assert run_checks(self.now) == []
        assert verify_log().problems == []


@pytest.fixture
def world() -> TwoHosts:
    return TwoHosts()


def fates(plan: Plan) -> dict[Lease, Fate]:
    return {one.lease: one.fate for one in plan.affected}


def test_what_begins_later_moves_with_its_window_and_price(world: TwoHosts) -> None:
    lease = world.book(30 * HOUR, 34 * HOUR)
    home = world.host_of(lease)
    elsewhere = Host.objects.exclude(pk=home.pk).get()
    before = (lease.starts_at, lease.ends_at, lease.quoted_total, lease.rate_per_hour)
    plan = world.drain(home, DAY, 3 * DAY)
    (one,) = plan.affected
    assert (one.lease, one.fate) == (lease, Fate.MOVES)
    assert {gpu.host for gpu in one.gpus} == {elsewhere}
    lease.refresh_from_db()
    assert [hold.gpu for hold in lease.holds.all()] == one.gpus
    assert (lease.starts_at, lease.ends_at, lease.quoted_total, lease.rate_per_hour) == before
    assert world.told(lease) == ["lease-moved"]
    assert "new firmware" in Notification.objects.get(lease=lease).body
    assert plan.empties_at is None
    world.in_order()


def test_a_preview_changes_nothing(world: TwoHosts) -> None:
    lease = world.book(30 * HOUR, 34 * HOUR)
    everything = [list(model.objects.order_by("pk").values()) for model in (Hold, Lease, AuditEntry, Closure)]
    world.preview(world.host_of(lease), DAY, None)
    assert everything == [
        list(model.objects.order_by("pk").values()) for model in (Hold, Lease, AuditEntry, Closure)
    ]
    assert Notification.objects.count() == 0


def test_later_bookings_go_round_it(world: TwoHosts) -> None:
    world.drain(world.host.row, DAY, 2 * DAY)
    world.drain(world.second.row, 30 * HOUR, 31 * HOUR)
    assert world.host_of(world.book(25 * HOUR, 26 * HOUR)) == world.second.row
    with pytest.raises(NothingFree):
        world.book(29 * HOUR, 31 * HOUR)
    lead = timedelta(seconds=world.model.lead_seconds)
    start = find_start(world.flavor, 2 * HOUR, earliest=world.now + 29 * HOUR, now=world.now)
    assert start == world.now + 31 * HOUR + lead
    world.in_order()


def test_what_runs_stays_is_told_and_cannot_be_kept_longer(world: TwoHosts) -> None:
    lease = world.book(timedelta(0), 8 * HOUR)
    world.run(lease)
    plan = world.drain(world.host_of(lease), 6 * HOUR, None)
    assert fates(plan) == {lease: Fate.RUNS_ON}
    assert plan.empties_at == lease.holds.get().ends_at
    assert "lease-maintenance" in world.told(lease)
    limit = extension_limit(lease, now=world.now)
    assert (limit.until, limit.closed) == (lease.ends_at, True)
    world.in_order()


def test_an_extension_ends_where_the_closure_begins(world: TwoHosts) -> None:
    lease = world.book(timedelta(0), 2 * HOUR)
    world.drain(world.host_of(lease), 6 * HOUR, 7 * HOUR)
    limit = extension_limit(lease, now=world.now)
    turnaround = timedelta(seconds=world.model.turnaround_seconds)
    assert (limit.until, limit.closed) == (world.now + 6 * HOUR - turnaround, True)


def test_what_cannot_move_stays_and_is_told(world: TwoHosts) -> None:
    """Four are booked on four GPUs; two of them would have to move and cannot."""
    leases = [world.book(30 * HOUR, 34 * HOUR) for _ in range(4)]
    plan = world.drain(world.host.row, DAY, 2 * DAY)
    staying = [lease for lease in leases if world.host_of(lease) == world.host.row]
    assert fates(plan) == dict.fromkeys(staying, Fate.STAYS)
    assert [world.told(lease) for lease in staying] == [["lease-maintenance"]] * 2
    (closure,) = open_closures(now=world.now)
    assert empties_at(closure) == max(hold.ends_at for hold in staying[0].holds.all())
    world.in_order()


def test_what_cannot_move_is_cancelled_on_demand(world: TwoHosts) -> None:
    leases = [world.book(30 * HOUR, 34 * HOUR) for _ in range(4)]
    plan = world.drain(world.host.row, DAY, 2 * DAY, unmovable=Unmovable.CANCEL)
    gone = [one.lease for one in plan.affected]
    assert {one.fate for one in plan.affected} == {Fate.CANCELLED}
    for lease in gone:
        lease.refresh_from_db()
        assert (lease.state, lease.outcome) == ("ended", "cancelled")
        assert "new firmware" in str(lease.outcome_reason)
        assert world.told(lease) == ["lease-cancelled"]
    assert set(gone) < set(leases)
    assert plan.empties_at is None
    world.in_order()


def test_what_cannot_move_waits_on_demand_and_keeps_its_end(world: TwoHosts) -> None:
    leases = [world.book(30 * HOUR, 60 * HOUR) for _ in range(3)] + [world.book(30 * HOUR, 40 * HOUR)]
    home = world.host_of(leases[3])
    plan = world.drain(home, DAY, 2 * DAY, unmovable=Unmovable.WAIT)
    (longer,) = {one.lease for one in plan.affected} - {leases[3]}
    assert longer.holds.get().starts_at == plan.closure.ends_at
    assert not leases[3].holds.exists()
    for lease in (longer, leases[3]):
        lease.refresh_from_db()
        assert lease.state == "scheduled"
        assert "new firmware" in str(lease.waiting_because)
        assert world.told(lease) == ["lease-waits"]
    assert plan.empties_at is None
    world.in_order()


def test_two_never_move_to_the_same_gpu(world: TwoHosts) -> None:
    """One GPU is free elsewhere, and two want it."""
    world.drain(world.others[0], timedelta(0), None)
    leases = [world.book(30 * HOUR, 34 * HOUR + number * HOUR) for number in range(2)]
    world.drain(world.others[1], timedelta(0), None)
    (other,) = [gpu for gpu in world.others if gpu == world.others[1]]
    closure = Closure.objects.get(gpu=other)
    lift_closure(actor=world.actor(world.operator), closure_id=closure.pk, now=world.now + HOUR)
    world.now += 2 * HOUR
    held = {world.host_of(lease) for lease in leases}
    assert held == {world.host.row}
    plan = world.drain(world.host.row, DAY, 2 * DAY)
    assert sorted(fates(plan).values()) == [Fate.MOVES, Fate.STAYS]
    world.in_order()


def test_one_gpu_of_a_host(world: TwoHosts) -> None:
    lease = world.book(30 * HOUR, 34 * HOUR)
    gpu = lease.holds.get().gpu
    plan = world.drain(gpu, DAY, 2 * DAY)
    assert fates(plan) == {lease: Fate.MOVES}
    assert lease.holds.get().gpu != gpu
    assert world.host_of(world.book(30 * HOUR, 34 * HOUR, flavor=world.pair)) != gpu.host
    world.in_order()


def test_the_list_is_shown_anew_when_somebody_is_affected_who_was_not_shown(world: TwoHosts) -> None:
    first = world.book(30 * HOUR, 34 * HOUR)
    home = world.host_of(first)
    seen = world.preview(home, DAY, 2 * DAY).seen
    second = world.book(30 * HOUR, 34 * HOUR)
    assert world.host_of(second) == home
    with pytest.raises(PlanChanged):
        world.drain(home, DAY, 2 * DAY, seen=seen)
    assert not Closure.objects.exists()
    end_lease(actor=world.actor(world.ada), lease_id=second.pk, now=world.now)
    world.drain(home, DAY, 2 * DAY, seen=seen)
    world.in_order()


def test_another_fate_than_shown_is_shown_anew_unless_it_can_move_by_now(world: TwoHosts) -> None:
    leases = [world.book(30 * HOUR, 34 * HOUR) for _ in range(3)]
    (alone,) = [one for one in leases if Hold.objects.filter(gpu__host=world.host_of(one)).count() == 1]
    home = Host.objects.exclude(pk=world.host_of(alone).pk).get()
    seen = world.preview(home, DAY, 2 * DAY).seen
    more = world.book(30 * HOUR, 34 * HOUR)
    with pytest.raises(PlanChanged):
        world.drain(home, DAY, 2 * DAY, seen=seen)
    seen = world.preview(home, DAY, 2 * DAY).seen
    end_lease(actor=world.actor(world.ada), lease_id=more.pk, now=world.now)
    plan = world.drain(home, DAY, 2 * DAY, seen=seen)
    assert sorted(fates(plan).values()) == [Fate.MOVES, Fate.STAYS]
    world.in_order()


def test_a_closure_is_changed_and_who_could_not_move_may_now(world: TwoHosts) -> None:
    leases = [world.book(30 * HOUR, 34 * HOUR) for _ in range(3)]
    home = next(host for host in (world.host.row, world.second.row) if host_count(host) == 2)
    closure = world.drain(home, DAY, 2 * DAY).closure
    stuck = [one for one in leases if world.host_of(one) == home]
    assert len(stuck) == 1
    (away,) = [one for one in leases if one not in stuck and world.told(one) == []]
    end_lease(actor=world.actor(world.ada), lease_id=away.pk, now=world.now)
    assert closure.ends_at is not None
    change: dict[str, Any] = {
        "starts_at": closure.starts_at,
        "ends_at": closure.ends_at + DAY,
        "now": world.now,
    }
    actor = world.actor(world.operator)
    plan = preview_change(actor=actor, closure_id=closure.pk, **change)
    assert fates(plan) == {stuck[0]: Fate.MOVES}
    change_closure(actor=actor, closure_id=closure.pk, reason="and a fan", seen=plan.seen, **change)
    closure.refresh_from_db()
    assert (closure.reason, closure.ends_at) == ("and a fan", change["ends_at"])
    assert world.host_of(stuck[0]) != home
    world.in_order()


def host_count(host: Host) -> int:
    return Hold.objects.filter(gpu__host=host).count()


def test_one_that_has_begun_keeps_its_start_and_ends_earlier(world: TwoHosts) -> None:
    closure = world.drain(world.host.row, timedelta(0), None).closure
    world.tick(after=HOUR)
    actor = world.actor(world.operator)
    times: dict[str, Any] = {
        "starts_at": world.now + DAY,
        "ends_at": world.now + HOUR,
        "now": world.now,
    }
    seen = preview_change(actor=actor, closure_id=closure.pk, **times).seen
    change_closure(actor=actor, closure_id=closure.pk, reason="dust", seen=seen, **times)
    closure.refresh_from_db()
    assert (closure.starts_at, closure.ends_at) == (world.now - HOUR, world.now + HOUR)
    for ends_at in (world.now, closure.starts_at):
        with pytest.raises(InvalidRequest):
            preview_change(actor=actor, closure_id=closure.pk, starts_at=None, ends_at=ends_at, now=world.now)
    world.in_order()


def test_lifting_frees_at_once_and_what_overlaps_stays(world: TwoHosts) -> None:
    world.drain(world.second.row, timedelta(0), None)
    now_on = world.drain(world.host.row, timedelta(0), None).closure
    later = world.drain(world.host.row, 5 * HOUR, 6 * HOUR).closure
    coming = world.drain(world.host.row, 8 * HOUR, 9 * HOUR).closure
    actor = world.actor(world.operator)
    world.tick(after=HOUR)
    lift_closure(actor=actor, closure_id=now_on.pk, now=world.now)
    lift_closure(actor=actor, closure_id=coming.pk, now=world.now)
    assert not Closure.objects.filter(pk=coming.pk).exists()
    now_on.refresh_from_db()
    assert now_on.ends_at == world.now
    world.book(HOUR, 2 * HOUR)
    world.book(7 * HOUR, 9 * HOUR)
    with pytest.raises(NothingFree):
        world.book(4 * HOUR, 5 * HOUR)
    for over in (now_on, coming):
        with pytest.raises((WrongState, NotVisible)):
            lift_closure(actor=actor, closure_id=over.pk, now=world.now)
    with pytest.raises(WrongState):
        preview_change(actor=actor, closure_id=now_on.pk, starts_at=None, ends_at=None, now=world.now)
    assert [one.pk for one in open_closures(now=world.now) if one.gpu is None] == [
        Closure.objects.get(host=world.second.row).pk,
        later.pk,
    ]
    world.in_order()


@pytest.mark.parametrize(
    ("starts", "ends", "reason", "field"),
    [
        (-HOUR, None, "dust", "starts_at"),
        (800 * DAY, None, "dust", "starts_at"),
        (HOUR, HOUR, "dust", "ends_at"),
        (HOUR, 2 * HOUR, "  ", "reason"),
        (HOUR, 2 * HOUR, "d" * 201, "reason"),
    ],
)
def test_what_makes_no_sense_is_refused(
    world: TwoHosts, starts: timedelta, ends: timedelta | None, reason: str, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        drain(
            actor=world.actor(world.operator),
            what=world.host.row,
            starts_at=world.now + starts,
            ends_at=None if ends is None else world.now + ends,
            reason=reason,
            seen="",
            now=world.now,
        )
    assert refused.value.field == field


def test_to_others_there_is_nothing_to_close(world: TwoHosts) -> None:
    closure = world.drain(world.host.row, HOUR, None).closure
    for who in (world.ada, world.approver, world.auditor):
        actor = world.actor(who)
        when: dict[str, Any] = {"starts_at": None, "ends_at": None, "now": world.now}
        with pytest.raises(NotVisible):
            preview_drain(actor=actor, what=world.host.row, **when)
        with pytest.raises(NotVisible):
            drain(actor=actor, what=world.host.row, reason="x", seen="", **when)
        with pytest.raises(NotVisible):
            preview_change(actor=actor, closure_id=closure.pk, **when)
        with pytest.raises(NotVisible):
            change_closure(actor=actor, closure_id=closure.pk, reason="x", seen="", **when)
        with pytest.raises(NotVisible):
            lift_closure(actor=actor, closure_id=closure.pk, now=world.now)
    assert Closure.objects.count() == 1


def wait_for(world: TwoHosts, flavor: Flavor, *, hours: int, deadline: timedelta) -> WaitlistEntry:
    return join_waitlist(
        actor=world.actor(world.bob),
        tenant=world.research,
        flavor=flavor,
        image=world.image,
        duration=hours * HOUR,
        earliest=world.now + HOUR,
        deadline=world.now + deadline,
        now=world.now,
    )


def test_an_offer_moves_silently_or_is_taken_back(world: TwoHosts) -> None:
    leases = [world.book(HOUR, 13 * HOUR) for _ in range(4)]
    entry = wait_for(world, world.flavor, hours=8, deadline=13 * HOUR)
    first = leases[0].holds.get().gpu
    end_lease(actor=world.actor(world.ada), lease_id=leases[0].pk, now=world.now)
    world.tick()
    offer = Lease.objects.get(entry=entry, state="offered")
    assert offer.holds.get().gpu == first

    there = next(lease for lease in leases[1:] if world.host_of(lease) != first.host)
    end_lease(actor=world.actor(world.ada), lease_id=there.pk, now=world.now)
    assert fates(world.drain(first, 2 * HOUR, 12 * HOUR)) == {offer: Fate.MOVES}
    assert world.host_of(offer) != first.host
    assert world.told(offer) == ["waitlist-offer"]

    plan = world.drain(world.host_of(offer), 2 * HOUR, 12 * HOUR, unmovable=Unmovable.WAIT)
    assert fates(plan)[offer] is Fate.WITHDRAWN
    offer.refresh_from_db()
    assert (offer.state, offer.outcome) == ("ended", "withdrawn")
    assert world.told(offer) == ["waitlist-offer", "waitlist-passed"]
    entry.refresh_from_db()
    assert entry.closed_at is None
    world.in_order()


def test_what_is_kept_for_somebody_who_waits_gives_way(world: TwoHosts) -> None:
    leases = [world.book(HOUR, 13 * HOUR) for _ in range(3)]
    entry = wait_for(world, world.pair, hours=8, deadline=13 * HOUR)
    world.tick()
    (kept,) = Block.objects.filter(kept_for=entry)
    full = next(lease for lease in leases if world.host_of(lease).pk != kept.host_id)
    plan = world.preview(full.holds.get().gpu, 4 * HOUR, 14 * HOUR)
    assert plan.gives_up == {kept.pk}
    assert Block.objects.get(kept_for=entry) == kept
    assert fates(world.drain(full.holds.get().gpu, 4 * HOUR, 14 * HOUR)) == {full: Fate.MOVES}
    assert world.host_of(full).pk == kept.host_id
    assert not Block.objects.filter(kept_for=entry).exists()
    assert run_checks(world.now) == []
    world.in_order()


def test_without_need_nothing_that_is_kept_gives_way(world: TwoHosts) -> None:
    leases = [world.book(HOUR, 13 * HOUR) for _ in range(3)]
    wait_for(world, world.pair, hours=8, deadline=13 * HOUR)
    world.tick()
    (kept,) = Block.objects.filter(kept_for__isnull=False)
    full = next(lease for lease in leases if world.host_of(lease).pk != kept.host_id)
    later = world.book(20 * HOUR, 21 * HOUR)
    end_lease(actor=world.actor(world.ada), lease_id=full.pk, now=world.now)
    plan = world.drain(later.holds.get().gpu, 19 * HOUR, 22 * HOUR)
    assert (fates(plan), plan.gives_up) == ({later: Fate.MOVES}, frozenset())
    world.in_order()
