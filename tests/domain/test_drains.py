"""Whatever was booked and closed before: a closure does what its preview shows, and that is the stated rule.

The rule is followed here step by step on rows that no plan reads: in order of start, larger first, then who
asked first, each to where the fewest are free together; those that find nothing also where something is kept
for those who wait. Set LEASEHOLD_FLEETS to try that many other histories.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from django.db.models import QuerySet
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hosts.models import Gpu, Host
from leasing import holds, policy
from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record
from leasing.booking import request_lease
from leasing.changing import change_end
from leasing.ending import end_lease
from leasing.errors import DomainError, NothingFree
from leasing.fsck.bookings import holds_do_not_overlap, leases_have_their_holds, openings_match_holds
from leasing.fsck.lifecycles import states_follow_from_the_log
from leasing.fsck.waiting import kept_is_for_who_waits, offers_are_held
from leasing.maintenance.plan import Fate, Plan, Unmovable
from leasing.maintenance.relocation import Move
from leasing.maintenance.service import (
    change_closure,
    drain,
    lift_closure,
    open_closures,
    preview_change,
    preview_drain,
)
from leasing.models import AuditEntry, Block, Closure, Flavor, Hold, Lease, Notification, Rate
from leasing.openings.spans import moment
from leasing.openings.upkeep import kept_of, rebuild
from leasing.states.gpu import GpuEvent
from leasing.states.lease import LeaseEvent
from leasing.tick import tick
from leasing.transitions import apply_gpu_event, apply_lease_event
from leasing.waitlist import join_waitlist
from tests.chosen import chosen, how_many
from tests.domain.ground import NOW, Ground
from tests.domain.oracle import MINUTE, Busy, Oracle

FLEETS = how_many(4)
LENGTH = 60
dice = st.randoms(use_true_random=True)
CHECKS = (
    openings_match_holds,
    holds_do_not_overlap,
    leases_have_their_holds,
    states_follow_from_the_log,
    offers_are_held,
    kept_is_for_who_waits,
)
AHEAD, RUNNING = {"offered", "requested", "scheduled"}, {"provisioning", "active"}


class Truth:
    """What keeps each GPU busy, as if a plan's closure were in force: leases, closures, what is kept."""

    def __init__(self, plan: Plan, now: datetime) -> None:
        self.now = now
        self.held = {
            (hold.lease_id, hold.gpu_id): Busy(hold.starts_at, hold.ends_at) for hold in Hold.objects.all()
        }
        closures = Closure.objects.exclude(pk=plan.closure.pk)
        self.rest: dict[UUID, list[Busy]] = defaultdict(list)
        for closure in [*closures, plan.closure]:
            for gpu in Gpu.objects.filter(host=closure.host_id):
                if closure.gpu_id in (None, gpu.pk):
                    self.rest[gpu.pk].append(Busy(closure.starts_at, closure.ends_at))
        self.kept = [
            (gpu_id, Busy(moment(span.starts), moment(span.ends)))
            for block in Block.objects.all()
            for gpu_id, span in kept_of(block)
        ]

    def oracle(self, flavor: Flavor) -> Oracle:
        oracle = Oracle(flavor, now=self.now, horizon=self.now + timedelta(days=9))
        oracle.busy = defaultdict(list)
        for (_lease, gpu_id), busy in self.held.items():
            oracle.busy[gpu_id].append(busy)
        for gpu_id, busy in [*self.kept, *((pk, one) for pk, found in self.rest.items() for one in found)]:
            oracle.busy[gpu_id].append(busy)
        return oracle

    def follow(self, plan: Plan) -> None:
        """Make the moves one by one, and find each to be the one that the rule asks for."""
        moves = {move.lease.pk: move for move in plan.moves}
        left = [one.lease for one in plan.affected if one.lease.state in AHEAD]
        left.sort(key=lambda lease: (lease.starts_at, -lease.flavor.gpu_count, lease.requested_at, lease.pk))
        left = [lease for lease in left if not self._follow(lease, moves)]
        self.kept = []
        left = [lease for lease in left if not self._follow(lease, moves)]
        assert moves == {}, "whoever moves can"
        for lease in left:
            assert not self._follow(lease, moves), "whoever is left fits nowhere"

    def _follow(self, lease: Lease, moves: dict[UUID, Move]) -> bool:
        own = {key: busy for key, busy in self.held.items() if key[0] == lease.pk}
        for key in own:
            del self.held[key]
        oracle = self.oracle(lease.flavor)
        room = oracle.room_left(lease.starts_at, lease.ends_at)
        if not room:
            self.held |= own
            return False
        move = moves.pop(lease.pk, None)
        assert move is not None, "whoever can move does"
        window = oracle.window(lease.starts_at, lease.ends_at)
        gpus = list(Gpu.objects.filter(pk__in=move.gpu_ids))
        assert (move.starts_at, move.ends_at) == window
        assert len(gpus) == lease.flavor.gpu_count
        assert oracle.free(gpus, *window) == gpus
        (host_id,) = {gpu.host_id for gpu in gpus}
        if lease.flavor.numa == Flavor.Numa.REQUIRED:
            assert len({gpu.numa_node for gpu in gpus}) == 1
        if window[0] > self.now:
            assert room[host_id] == min(room.values()), "it goes where the fewest are free together"
        self.held |= {(lease.pk, gpu.pk): Busy(*window) for gpu in gpus}
        return True


def rows() -> list[Any]:
    """All that a preview could change."""
    models = (Hold, Lease, Closure, AuditEntry, Notification, Block)
    return [list(model._default_manager.order_by("pk").values()) for model in models]


def placed(lease_id: UUID) -> set[tuple[UUID, datetime, datetime]]:
    return set(Hold.objects.filter(lease=lease_id).values_list("gpu_id", "starts_at", "ends_at"))


def prepare(ground: Ground, dice: random.Random) -> None:
    """No GPU yet; any lead and turnaround."""
    model = ground.model
    model.lead_seconds, model.turnaround_seconds = dice.choice([0, 180]), dice.choice([0, 300])
    model.save()
    Gpu.objects.all().delete()
    rebuild(ground.host.pk)


def add_host(ground: Ground, number: int, dice: random.Random, *, state: str) -> list[Gpu]:
    """A host with up to four GPUs."""
    key = f"{number + 2:02d}"
    host = Host.objects.create(
        name=f"hv{key}",
        account=f"hv{key}",
        signing_key=key * 32,
        key_id=key * 8,
        sealing_key=key * 32,
        last_seen_at=NOW,
    )
    gpus = [
        Gpu.objects.create(
            host=host, model=ground.model, address=f"0000:{index:02x}:00.0", numa_node=node, state=state,
            state_since=NOW, share_vcpus=1, share_memory_mib=64, share_disk_gib=1,
        )
        for index, node in enumerate(dice.choices([0, 0, 1], k=dice.randint(1, 4)))
    ]  # fmt: skip
    rebuild(host.pk)
    return gpus


def add_flavors(ground: Ground) -> list[Flavor]:
    """Of one, two and three GPUs, small ones more often."""
    flavors = [
        Flavor.objects.create(
            slug=f"{count}-{numa}", name="x", model=ground.model, gpu_count=count, numa=numa
        )
        for count in (1, 2, 3)
        for numa in Flavor.Numa
    ]
    return flavors + 3 * flavors[:2]


class Drains(RuleBasedStateMachine):
    """A few hosts; people book, extend, end and wait; operators close and lift; time passes, machines run."""

    def __init__(self) -> None:
        super().__init__()
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.now = NOW

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.atomic.__exit__(None, None, None)
        django_settings.AUDIT_ANCHOR_FILE.unlink(missing_ok=True)

    @initialize(dice=dice)
    def build(self, dice: random.Random) -> None:
        ground = self.ground = Ground()
        ground.tenant.concurrent_gpus = 99
        ground.tenant.save()
        policy.grant_role(
            actor=SYSTEM, person=ground.person, tenant=ground.tenant, role="member", now=self.now
        )
        self.person = Actor.of_person(ground.person)
        prepare(ground, dice)
        for number in range(dice.choice([2, 3, 4])):
            for gpu in add_host(ground, number, dice, state="dirty"):
                born: dict[str, Any] = {"from": None, "to": "dirty"}
                record(action="gpu.admit", actor=SYSTEM, subject=f"gpu:{gpu.pk}", now=NOW, **born)
                self.clean(gpu)
        self.flavors = add_flavors(ground)
        Rate.objects.bulk_create(
            Rate(flavor=flavor, per_hour=1, currency="EUR", valid_from=NOW - timedelta(days=1))
            for flavor in set(self.flavors)
        )
        self._book(dice, dice.randint(1, 2) * Gpu.objects.count())

    @rule(dice=dice)
    def book(self, dice: random.Random) -> None:
        self._book(dice, dice.randint(1, 4))

    def _book(self, dice: random.Random, count: int) -> None:
        for _ in range(count):
            starts_at = self.now + dice.randint(0, 2 * LENGTH) * MINUTE
            ends_at = starts_at + dice.randint(5, LENGTH) * MINUTE
            with suppress(DomainError):
                request_lease(
                    actor=self.person, tenant=self.ground.tenant, flavor=dice.choice(self.flavors),
                    image=self.ground.image, starts_at=starts_at, ends_at=ends_at, now=self.now,
                )  # fmt: skip

    @rule(dice=dice)
    def wait(self, dice: random.Random) -> None:
        start, length, more = dice.randint(0, LENGTH), dice.randint(5, LENGTH), dice.randint(0, LENGTH)
        with suppress(DomainError):
            join_waitlist(
                actor=self.person, tenant=self.ground.tenant, flavor=dice.choice(self.flavors),
                image=self.ground.image, duration=length * MINUTE, earliest=self.now + start * MINUTE,
                deadline=self.now + (start + length + more) * MINUTE, now=self.now,
            )  # fmt: skip

    @precondition(lambda self: leases().exists())
    @rule(dice=dice)
    def extend(self, dice: random.Random) -> None:
        lease, by = dice.choice(leases()), dice.randint(1, LENGTH)
        with suppress(DomainError), transaction.atomic():
            before = {hold.gpu_id: hold.ends_at for hold in lease.holds.all()}
            change_end(
                actor=self.person, lease_id=lease.pk, ends_at=lease.ends_at + by * MINUTE, now=self.now
            )
            for hold in lease.holds.select_related("gpu"):
                added = (before[hold.gpu_id], hold.ends_at)
                assert not any(busy.meets(*added) for busy in closed(hold.gpu)), "not into a closure"

    @precondition(lambda self: leases().exists())
    @rule(dice=dice)
    def end(self, dice: random.Random) -> None:
        with suppress(DomainError):
            end_lease(actor=self.person, lease_id=dice.choice(leases()).pk, now=self.now)

    @rule(dice=dice)
    def pass_time(self, dice: random.Random) -> None:
        """Hosts do their work at once."""
        self.now += dice.randint(1, LENGTH // 4) * MINUTE
        Host.objects.update(last_seen_at=self.now)
        tick(now=self.now, send=lambda _host, _envelope: None)
        for lease in Lease.objects.filter(state="provisioning"):
            self.apply(lease, LeaseEvent.RUNNING)
        for lease in Lease.objects.filter(state="releasing"):
            self.apply(lease, LeaseEvent.GONE)
        for gpu in Gpu.objects.filter(state="dirty"):
            self.clean(gpu)

    @rule(dice=dice)
    def close(self, dice: random.Random) -> None:
        gpu = dice.choice(Gpu.objects.order_by("host__name", "address").select_related("host"))
        asked: dict[str, Any] = {
            "actor": SYSTEM,
            "what": dice.choice([gpu, gpu.host]),
            **times(dice, self.now),
            "unmovable": dice.choice(list(Unmovable)),
            "now": self.now,
        }
        before = rows()
        shown = preview_drain(**asked)
        assert rows() == before, "a preview changes nothing"
        check_plan(shown, self.now)
        check_done(shown, drain(seen=shown.seen, reason="dust", **asked))

    @precondition(lambda self: open_closures(now=self.now).exists())
    @rule(dice=dice)
    def change(self, dice: random.Random) -> None:
        asked: dict[str, Any] = {
            "actor": SYSTEM,
            "closure_id": dice.choice(open_closures(now=self.now)).pk,
            **times(dice, self.now),
            "now": self.now,
        }
        with suppress(DomainError):
            shown = preview_change(**asked)
            check_plan(shown, self.now)
            check_done(shown, change_closure(seen=shown.seen, reason="more dust", **asked))

    @precondition(lambda self: open_closures(now=self.now).exists())
    @rule(dice=dice)
    def lift(self, dice: random.Random) -> None:
        found = dice.choice(open_closures(now=self.now))
        lift_closure(actor=SYSTEM, closure_id=found.pk, now=self.now)
        assert not any(one.pk == found.pk for one in open_closures(now=self.now))

    @invariant()
    def everything_is_in_order(self) -> None:
        assert [finding for check in CHECKS for finding in check(self.now)] == []

    def apply(self, lease: Lease, event: LeaseEvent) -> None:
        apply_lease_event(lease_id=lease.pk, event=event, actor=SYSTEM, effective_at=self.now, now=self.now)

    def clean(self, gpu: Gpu) -> None:
        for event in (GpuEvent.SCRUB, GpuEvent.PASS):
            cleaned = apply_gpu_event(
                gpu_id=gpu.pk, event=event, actor=SYSTEM, effective_at=self.now, now=self.now
            )
        holds.settle(cleaned, now=self.now)


def check_plan(plan: Plan, now: datetime) -> None:
    closure = plan.closure
    span = Busy(closure.starts_at, closure.ends_at)
    in_it = Hold.objects.filter(gpu__host=closure.host_id).select_related("lease", "gpu")
    meeting = [
        hold
        for hold in in_it
        if closure.gpu_id in (None, hold.gpu_id) and span.meets(hold.starts_at, hold.ends_at)
    ]
    expected = {hold.lease_id for hold in meeting if hold.lease.state in AHEAD | RUNNING}
    assert {one.lease.pk for one in plan.affected} == expected
    assert all((one.lease.state in RUNNING) == (one.fate is Fate.RUNS_ON) for one in plan.affected)
    remaining = {one.lease.pk for one in plan.affected if one.fate in (Fate.RUNS_ON, Fate.STAYS)}
    left = [hold.ends_at for hold in meeting if hold.lease_id in remaining or hold.lease_id not in expected]
    assert plan.empties_at == max(left, default=None)
    Truth(plan, now).follow(plan)


def check_done(shown: Plan, done: Plan) -> None:
    assert [(one.lease, one.fate, one.gpus) for one in done.affected] == [
        (one.lease, one.fate, one.gpus) for one in shown.affected
    ], "what is done is what was shown"
    closure = Closure.objects.get(pk=done.closure.pk)
    assert (closure.starts_at, closure.ends_at) == (shown.closure.starts_at, shown.closure.ends_at)
    for one in shown.affected:
        now_is = Lease.objects.get(pk=one.lease.pk)
        terms = ("starts_at", "ends_at", "rate_per_hour", "currency", "quoted_total", "owner_id")
        assert all(getattr(now_is, name) == getattr(one.lease, name) for name in terms)
        held = {(hold.gpu_id, hold.starts_at, hold.ends_at) for hold in one.lease.holds.all()}
        match one.fate:
            case Fate.MOVES:
                assert one.move is not None
                window = (one.move.starts_at, one.move.ends_at)
                assert placed(one.lease.pk) == {(gpu.pk, *window) for gpu in one.gpus}
            case Fate.RUNS_ON | Fate.STAYS:
                assert placed(one.lease.pk) == held
            case Fate.WAITS:
                span = Busy(closure.starts_at, closure.ends_at)
                mine = [row for row in placed(one.lease.pk) if row[0] in gpus_of(closure)]
                assert not any(span.meets(*row[1:]) for row in mine)
                assert now_is.state == one.lease.state
            case Fate.CANCELLED | Fate.WITHDRAWN:
                assert (now_is.state, placed(one.lease.pk)) == ("ended", set())


def times(dice: random.Random, now: datetime) -> dict[str, Any]:
    starts_at = now + dice.randint(0, LENGTH) * MINUTE
    ends_at = starts_at + dice.randint(1, 2 * LENGTH) * MINUTE
    return {"starts_at": starts_at, "ends_at": dice.choice([ends_at] * 7 + [None])}


def leases() -> QuerySet[Lease]:
    found = Lease.objects.filter(state__in=AHEAD | RUNNING)
    return found.order_by("requested_at", "starts_at", "ends_at", "id")


def all_of(found: list[Hold]) -> set[UUID]:
    return {hold.lease_id for hold in found}


def closed(gpu: Gpu) -> Iterator[Busy]:
    for closure in Closure.objects.filter(host=gpu.host_id):
        if closure.gpu_id in (None, gpu.pk):
            yield Busy(closure.starts_at, closure.ends_at)


def gpus_of(closure: Closure) -> set[UUID]:
    gpus = Gpu.objects.filter(host=closure.host_id)
    return {gpu.pk for gpu in gpus if closure.gpu_id in (None, gpu.pk)}


@pytest.mark.django_db
@pytest.mark.timeout(max(120, 20 * FLEETS))
def test_a_closure_does_what_was_shown_and_that_is_the_rule() -> None:
    run_state_machine_as_test(
        Drains,
        settings=chosen(FLEETS, stateful_step_count=25),
    )


@chosen(4 * FLEETS)
@given(dice)
@pytest.mark.django_db
@pytest.mark.timeout(max(120, 20 * FLEETS))
def test_in_any_fleet_the_plan_is_what_the_rule_says(dice: random.Random) -> None:
    """Many leases at once; one running among them."""
    with transaction.atomic():
        ground = Ground()
        prepare(ground, dice)
        for number in range(dice.randint(2, 4)):
            add_host(ground, number, dice, state="clean")
        flavors = add_flavors(ground)
        for number in range(dice.randint(1, 3) * Gpu.objects.count()):
            starts_at = NOW + dice.randint(0, 3 * LENGTH) * MINUTE
            lease = ground.lease(
                flavor=dice.choice(flavors), starts_at=starts_at,
                ends_at=starts_at + dice.randint(5, LENGTH) * MINUTE,
                requested_at=NOW - dice.randint(0, 3) * MINUTE, state="scheduled" if number else "active",
            )  # fmt: skip
            with suppress(NothingFree):
                holds.place(lease, now=NOW)
        gpu = dice.choice(Gpu.objects.order_by("host__name", "address").select_related("host"))
        asked: dict[str, Any] = {
            "actor": SYSTEM, "what": dice.choice([gpu, gpu.host, gpu.host]), **times(dice, NOW), "now": NOW,
        }  # fmt: skip
        shown = preview_drain(**asked)
        check_plan(shown, NOW)
        check_done(shown, drain(seen=shown.seen, reason="dust", **asked))
        assert [*holds_do_not_overlap(NOW), *openings_match_holds(NOW)] == []
        transaction.set_rollback(True)
