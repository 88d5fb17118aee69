"""Whatever people and hardware do: those who wait get what comes free, in their order, before anybody else.

Each answer is compared with the slow truth. Set LEASEHOLD_LINES to try that many other histories.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import pytest
from django.db import transaction
from django.db.models import Model
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from hosts.models import Gpu, Host, StoragePool
from leasing import policy, tick
from leasing.actors import SYSTEM, Actor
from leasing.booking import request_lease
from leasing.changing import change_end, change_window
from leasing.ending import end_lease
from leasing.errors import DomainError, InvalidRequest, NothingFree
from leasing.fsck import bookings, lifecycles, limits, waiting
from leasing.models import Closure, Flavor, Hold, Lease, Person, Rate, Tenant, WaitlistEntry
from leasing.openings.upkeep import rebuild, refresh_host
from leasing.states.gpu import GpuEvent
from leasing.transitions import TransitionRefused, apply_gpu_event
from leasing.waitlist import (
    change_deadline,
    claim_offer,
    decline_offer,
    join_waitlist,
    leave_waitlist,
    outlook,
)
from leasing.wishes import line
from tests.chosen import chosen, how_many
from tests.domain.ground import NOW, Ground
from tests.domain.oracle import MINUTE, Busy, Oracle

LINES = how_many(5, by="LEASEHOLD_LINES")
LENGTH = 60
DUTIES = (
    tick.expire_requests,
    tick.end_due,
    tick.pass_unclaimed_on,
    tick.mend_offers,
    tick.lapse_waits,
    tick.open_again,
    tick.serve_lines,
)
CHECKS = (
    bookings.holds_do_not_overlap,
    bookings.openings_match_holds,
    lifecycles.states_follow_from_the_log,
    limits.bookings_were_allowed,
    waiting.offers_are_held,
    waiting.entries_follow_from_the_log,
    waiting.kept_is_for_who_waits,
)

minutes = st.integers(0, LENGTH)
lengths = st.integers(1, LENGTH)
# Who, which flavor, from when on, how long, how much later at most, and whether with the home volume.
wishes = st.tuples(
    st.integers(0, 2),
    st.sampled_from([0, 0, 0, 1, 2, 3]),
    minutes,
    lengths,
    minutes,
    st.sampled_from([False, False, True]),
)
homes = st.sampled_from([False, False, True])
M = TypeVar("M", bound=Model)
ACTS = [
    *["tick"] * 6,
    *["give_back"] * 4,
    *["join", "claim", "pass_by"] * 2,
    *["shorten", "extend", "move", "leave", "other_deadline", "decline"],
    *["close", "reopen", "break_down", "repair"],
]


class LineOracle(Oracle):
    """What one who waits could have, were it not for the holds of some leases."""

    def __init__(self, entry: WaitlistEntry, *, now: datetime, without: Collection[UUID] = ()) -> None:
        with_home = [lease for lease in self.with_home(entry) if lease.pk not in without]
        super().__init__(
            entry.flavor,
            now=now,
            horizon=now,
            hosts=self.home_hosts(with_home) if entry.with_home else None,
            apart=[Busy(lease.starts_at, lease.ends_at) for lease in with_home],
            without=without,
        )
        self.entry = entry
        self.keep(WaitlistEntry.objects.exclude(pk=entry.pk))
        passed = entry.offers.filter(outcome="passed").values_list("starts_at", "ends_at")
        self.passed = [Busy(*window) for window in passed]

    @staticmethod
    def with_home(entry: WaitlistEntry) -> list[Lease]:
        """Workstations that are to have the home volume that it wants."""
        if not entry.with_home:
            return []
        booked = Lease.objects.filter(owner=entry.owner, tenant=entry.tenant, with_home=True)
        return list(booked.exclude(state__in=["releasing", "ended"]))

    @staticmethod
    def home_hosts(with_home: list[Lease]) -> set[UUID]:
        """No volume is ever made here: it will be in the pool of those that are booked, or in any."""
        pools = {hold.gpu.host.pool_id for lease in with_home for hold in lease.holds.all()} - {None}
        hosts = Host.objects.filter(pool__isnull=False)
        return {host.pk for host in hosts if not pools or host.pool_id in pools}

    def start(self, host_id: UUID | None = None) -> datetime | None:
        """The first that would do, on that host or any."""
        if host_id is not None:
            self.gpus = [gpu for gpu in self.gpus if gpu.host_id == host_id]
        start = max(self.entry.earliest_at, self.now)
        while start <= self.entry.last_start_at:
            ends_at = start + self.entry.duration
            if not any(one.meets(start, ends_at) for one in self.passed) and self.fits(start, ends_at):
                return start
            start += MINUTE
        return None


class Line(RuleBasedStateMachine):
    """A few hosts, three teams with a person each, and any history of what they do."""

    def __init__(self) -> None:
        super().__init__()
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.now = NOW
        self.joined = 0
        self.shown: set[UUID] = set()
        self.in_the_way: dict[UUID, set[UUID]] = {}
        self.places: dict[UUID, int] = {}

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.atomic.__exit__(None, None, None)

    @initialize(
        shape=st.lists(st.lists(st.sampled_from([0, 0, 1]), min_size=2, max_size=3), min_size=1, max_size=2),
        pools=st.lists(st.sampled_from([None, 0, 0, 1]), min_size=2, max_size=2),
        lead=st.sampled_from([0, 3]),
        turnaround=st.sampled_from([0, 5]),
        booked=st.lists(st.integers(20, 2 * LENGTH), min_size=1, max_size=4),
        waiting=st.lists(wishes, min_size=3, max_size=6),
    )
    def build(
        self,
        shape: list[list[int]],
        pools: list[int | None],
        lead: int,
        turnaround: int,
        booked: list[int],
        waiting: list[tuple[int, int, int, int, int, bool]],
    ) -> None:
        """All is booked for some hours, and some wait already."""
        self.ground = Ground()
        model = self.ground.model
        model.lead_seconds, model.turnaround_seconds = 60 * lead, 60 * turnaround
        model.save()
        Gpu.objects.all().delete()
        rebuild(self.ground.host.pk)
        known = [StoragePool.objects.create(name=name) for name in ("one", "other")]
        for number, (nodes, pool) in enumerate(zip(shape, pools, strict=False), 2):
            key = f"{number:02d}"
            host = Host.objects.create(
                id=UUID(int=number),
                name=f"hv{number}",
                account=f"hv{number}",
                signing_key=key * 32,
                key_id=key * 8,
                sealing_key=key * 32,
                pool=None if pool is None else known[pool],
            )
            for index, node in enumerate(nodes):
                Gpu.objects.create(
                    id=UUID(int=10 * number + index), host=host, model=model,
                    address=f"0000:{index:02x}:00.0", numa_node=node, state="clean",
                    state_since=NOW, share_vcpus=1, share_memory_mib=1, share_disk_gib=1,
                )  # fmt: skip
            rebuild(host.pk)
        self._offer()
        self._people()
        for gpu in range(sum(map(len, shape))):
            start = lead
            for length in itertools.cycle(booked):
                if start >= 4 * LENGTH:
                    break
                self._book(self.people[gpu % 3], 0, start, length)
                start += length + lead + turnaround
        for wish in waiting:
            self._join(*wish)

    def _offer(self) -> None:
        self.flavors = [
            Flavor.objects.create(
                slug=f"{count}-{numa}", name="x", model=self.ground.model, gpu_count=count, numa=numa
            )
            for count, numa in ((1, "preferred"), (2, "preferred"), (2, "required"), (3, "preferred"))
        ]
        for flavor in self.flavors:
            Rate.objects.create(flavor=flavor, per_hour=3, currency="EUR", valid_from=NOW - timedelta(days=1))

    def _people(self) -> None:
        self.people = []
        self.teams: dict[UUID, Tenant] = {}
        for number in range(3):
            person = Person.objects.create(username=f"p{number}")
            tenant = Tenant.objects.create(
                slug=f"t{number}", name=f"T{number}", weight=number + 1, concurrent_gpus=4
            )
            policy.grant_role(actor=SYSTEM, person=person, tenant=tenant, role="member", now=NOW)
            self.people.append(person)
            self.teams[person.pk] = tenant

    @rule(data=st.data(), act=st.sampled_from(ACTS))
    def happens(self, data: st.DataObject, act: str) -> None:
        getattr(self, act)(data)

    # What people do

    def pass_by(self, data: st.DataObject) -> None:
        """Somebody who finds a time takes nothing that one who waits could have had."""
        who, which = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 3))
        try:
            lease = self._book(
                self.people[who], which, data.draw(minutes), data.draw(lengths), with_home=data.draw(homes)
            )
        except (NothingFree, InvalidRequest):
            return
        (host_id,) = set(lease.holds.values_list("gpu__host_id", flat=True))
        for entry in line():
            if not entry.fresh:
                oracle = LineOracle(entry, now=self.now, without=[lease.pk])
                assert oracle.start(host_id) is None, "a passer-by came first"

    def _book(self, who: Person, which: int, start: int, length: int, *, with_home: bool = False) -> Lease:
        starts_at = self.now + start * MINUTE
        ends_at = starts_at + length * MINUTE
        with transaction.atomic():
            return request_lease(
                actor=Actor.of_person(who), tenant=self.teams[who.pk], flavor=self.flavors[which],
                image=self.ground.image, starts_at=starts_at, ends_at=ends_at, with_home=with_home,
                now=self.now,
            )  # fmt: skip

    def join(self, data: st.DataObject) -> None:
        self._join(*data.draw(wishes))

    def _join(self, who: int, which: int, start: int, length: int, slack: int, with_home: bool) -> None:
        person, earliest = self.people[who], self.now + (start + 1) * MINUTE
        self.joined += 1
        self.try_to(
            lambda: join_waitlist(
                actor=Actor.of_person(person), tenant=self.teams[person.pk], flavor=self.flavors[which],
                image=self.ground.image, duration=length * MINUTE, earliest=earliest,
                deadline=earliest + (length + slack) * MINUTE, with_home=with_home,
                now=self.now + self.joined * timedelta(microseconds=1),
            )
        )  # fmt: skip

    def leave(self, data: st.DataObject) -> None:
        for entry in self.one_of(data, WaitlistEntry.objects.filter(closed_at=None)):
            leave_waitlist(actor=Actor.of_person(entry.owner), entry_id=entry.pk, now=self.now)

    def other_deadline(self, data: st.DataObject) -> None:
        by = data.draw(st.integers(-20, 40)) * MINUTE
        for entry in self.one_of(data, WaitlistEntry.objects.filter(closed_at=None)):
            deadline = entry.deadline_at + by
            actor = Actor.of_person(entry.owner)
            change = partial(change_deadline, actor=actor, entry_id=entry.pk, now=self.now)
            self.try_to(partial(change, deadline=deadline))

    def claim(self, data: st.DataObject) -> None:
        self._answer(data, claim_offer)

    def decline(self, data: st.DataObject) -> None:
        self._answer(data, decline_offer)

    def _answer(self, data: st.DataObject, act: Callable[..., object]) -> None:
        for offer in self.one_of(data, Lease.objects.filter(state="offered")):
            known = {"actor": Actor.of_person(offer.owner), "entry_id": offer.entry_id, "now": self.now}
            self.try_to(partial(act, **known))

    def give_back(self, data: st.DataObject) -> None:
        self._change(data, lambda lease, known: end_lease(**known))

    def shorten(self, data: st.DataObject) -> None:
        by = data.draw(lengths) * MINUTE
        self._change(data, lambda lease, known: change_end(**known, ends_at=lease.ends_at - by))

    def extend(self, data: st.DataObject) -> None:
        by = data.draw(lengths) * MINUTE
        self._change(data, lambda lease, known: change_end(**known, ends_at=lease.ends_at + by))

    def move(self, data: st.DataObject) -> None:
        starts_at = self.now + data.draw(minutes) * MINUTE
        ends_at = starts_at + data.draw(lengths) * MINUTE
        window = partial(change_window, starts_at=starts_at, ends_at=ends_at)
        self._change(data, lambda lease, known: window(**known))

    def _change(self, data: st.DataObject, act: Callable[[Lease, dict[str, Any]], object]) -> None:
        for lease in self.one_of(data, Lease.objects.filter(state__in=["scheduled", "requested"])):
            known = {"actor": Actor.of_person(lease.owner), "lease_id": lease.pk, "now": self.now}
            self.try_to(partial(act, lease, known))

    # What happens to the fleet

    def close(self, data: st.DataObject) -> None:
        for gpu in self.one_of(data, Gpu.objects.select_related("host")):
            starts_at = self.now + data.draw(minutes) * MINUTE
            ever = data.draw(st.booleans())
            ends_at = None if ever else starts_at + data.draw(lengths) * MINUTE
            only = None if data.draw(st.booleans()) else gpu
            Closure.objects.create(
                host=gpu.host, gpu=only, starts_at=starts_at, ends_at=ends_at, created_at=NOW
            )
            refresh_host(gpu.host_id, starts_at, ends_at)

    def reopen(self, data: st.DataObject) -> None:
        for closure in self.one_of(data, Closure.objects.all()):
            closure.delete()
            refresh_host(closure.host_id, self.now, None)

    def break_down(self, data: st.DataObject) -> None:
        self._treat(data, GpuEvent.WITHDRAW)

    def repair(self, data: st.DataObject) -> None:
        self._treat(data, GpuEvent.READMIT)

    def _treat(self, data: st.DataObject, event: GpuEvent) -> None:
        for gpu in self.one_of(data, Gpu.objects.all()):
            with suppress(TransitionRefused):
                apply_gpu_event(gpu_id=gpu.pk, event=event, actor=SYSTEM, effective_at=self.now, now=self.now)

    def tick(self, data: st.DataObject) -> None:
        """After a tick nobody waits for what is free, nor for what one behind them was offered in it."""
        self.now += data.draw(st.sampled_from([0, 0, 1, 5, 12])) * MINUTE
        before = set(Lease.objects.values_list("pk", flat=True))
        for duty in DUTIES:
            with transaction.atomic():
                duty(self.now)
        offers = Lease.objects.filter(state="offered").exclude(pk__in=before).select_related("entry")
        for entry in line():
            behind = [offer.pk for offer in offers if rank(offer.entry) > rank(entry)]
            missed = LineOracle(entry, now=self.now, without=behind).start()
            assert missed is None, self.told(entry, missed)
        self.check_offers(offers)
        self.check_kept()
        self.check_places()
        found = [finding for check in CHECKS for finding in check(self.now)]
        assert [one for one in found if not one.subject.startswith("gpu:")] == [], "GPUs came from nowhere"

    # What must hold

    def check_offers(self, offers: Collection[Lease]) -> None:
        """What is offered is what was wished for, and can still be claimed."""
        for offer in offers:
            entry = offer.entry
            assert entry is not None
            assert offer.ends_at - offer.starts_at == entry.duration
            assert entry.earliest_at <= offer.starts_at <= entry.last_start_at
            assert offer.decide_by is not None
            assert self.now < offer.decide_by <= offer.starts_at + entry.duration / 4
            refused = entry.offers.filter(outcome="passed", starts_at__lt=offer.ends_at)
            assert not refused.filter(ends_at__gt=offer.starts_at).exists()

    def check_kept(self) -> None:
        """What is in the way of somebody for whom GPUs are kept only ever becomes less."""
        kept = {entry.pk: entry for entry in WaitlistEntry.objects.filter(kept_from__isnull=False)}
        for pk, entry in kept.items():
            held = Hold.objects.filter(starts_at__lt=entry.kept_until, ends_at__gt=entry.kept_from)
            gpus = set(entry.kept_gpus.values_list("pk", flat=True))
            key = (pk, entry.kept_from, frozenset(gpus))
            now_in_it = set(held.filter(gpu__in=gpus).values_list("lease_id", flat=True))
            assert now_in_it <= self.in_the_way.get(key, now_in_it)  # type: ignore[call-overload]
            self.in_the_way[key] = now_in_it  # type: ignore[index]

    def check_places(self) -> None:
        """A place becomes worse only by somebody who joined before its rank."""
        waiting = list(WaitlistEntry.objects.filter(closed_at=None))
        for entry in waiting:
            place = outlook(entry, now=self.now).position
            assert place == sum(rank(other) < rank(entry) for other in waiting) + 1
            newcomers = sum(
                other.pk not in self.shown and other.joined_at < entry.rank_at and rank(other) < rank(entry)
                for other in waiting
            )
            assert place <= self.places.get(entry.pk, place) + newcomers
            self.places[entry.pk] = place
        self.shown |= {entry.pk for entry in waiting}

    # Hands

    def told(self, entry: WaitlistEntry, missed: datetime) -> str:
        """What there is, for whoever has to find out."""
        entries = WaitlistEntry.objects.order_by("rank_at")
        holds = Hold.objects.select_related("gpu", "lease__flavor").order_by("gpu", "starts_at")
        rows = [f"overtaken or left out: {entry.pk} could begin at {missed}; now is {self.now}"]
        rows += [
            f"{one.pk} {one.flavor.slug} {one.duration} from {one.earliest_at} or {one.last_start_at}"
            f" {one.outcome} fresh={one.fresh} passes={one.passes} kept {one.kept_from} – {one.kept_until}"
            for one in entries
        ]
        rows += [f"{hold} {hold.lease.state} {hold.lease.starts_at} {hold.lease.ends_at}" for hold in holds]
        return "\n".join(rows)

    def one_of(self, data: st.DataObject, rows: Iterable[M]) -> list[M]:
        """One of them, if there is any; in an order that does not hang on random keys.

        What is drawn hangs on nothing at all: Hypothesis gives up when the same history draws other numbers.
        """
        found, number = sorted(rows, key=_order), data.draw(st.integers(0, 99))
        return [found[number % len(found)]] if found else []

    def try_to(self, act: Callable[[], object]) -> None:
        with suppress(DomainError), transaction.atomic():
            act()


def _order(row: Model) -> tuple[str, ...]:
    facts = ("joined_at", "requested_at", "starts_at", "ends_at", "owner", "flavor")
    known = tuple(str(getattr(row, fact, "")) for fact in facts)
    if isinstance(row, Lease):
        known += tuple(sorted(str(gpu_id) for gpu_id in row.holds.values_list("gpu_id", flat=True)))
    return known if any(known) else (str(row),)


def rank(entry: WaitlistEntry | None) -> tuple[datetime, datetime, UUID]:
    assert entry is not None
    return entry.rank_at, entry.joined_at, entry.pk


@pytest.mark.django_db
@pytest.mark.timeout(max(240, 10 * LINES))
def test_every_history_serves_the_line_in_its_order() -> None:
    run_state_machine_as_test(
        Line,
        settings=chosen(LINES, by="LEASEHOLD_LINES", stateful_step_count=25),
    )
