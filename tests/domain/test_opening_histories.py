"""Every answer about what is free equals the slow truth, whatever was booked, moved or closed before.

Set LEASEHOLD_FLEETS to try that many other fleets.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import transaction
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from hosts.models import Gpu, Host
from leasing import holds, moving
from leasing.actors import SYSTEM
from leasing.errors import NothingFree
from leasing.fsck.bookings import openings_match_holds
from leasing.models import Closure, Flavor, Lease
from leasing.openings.spans import moment
from leasing.openings.upkeep import forget_past, rebuild, refresh_host
from leasing.slots import bookable, find_start, longest_end
from leasing.states.gpu import GpuEvent
from leasing.timing import SHORTEST_LEASE
from leasing.transitions import TransitionRefused, apply_gpu_event
from tests.chosen import chosen, how_many
from tests.domain.ground import NOW, Ground
from tests.domain.oracle import MINUTE, Oracle

FLEETS = how_many(30)
LENGTH = 60
HORIZON = timedelta(minutes=6 * LENGTH)

minutes = st.integers(0, LENGTH)
lengths = st.integers(1, LENGTH)
# One of however many: no draw hangs on what is there, because databases choose among equals as they like.
numbers = st.integers(0, 99)
starts = st.integers(0, 2 * LENGTH)
# Which flavor, from when on, and how long.
leases = st.tuples(st.integers(0, 5), starts, lengths)
questions = st.tuples(st.integers(0, 5), starts, st.integers(1, 2 * LENGTH))


class Fleet(RuleBasedStateMachine):
    """A few hosts, any history of what takes and frees their GPUs."""

    told: Counter[str] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.now = NOW
        self.leases: list[Lease] = []

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.atomic.__exit__(None, None, None)

    @initialize(
        shape=st.lists(st.lists(st.sampled_from([0, 0, 1]), min_size=1, max_size=4), min_size=1, max_size=3),
        lead=st.sampled_from([0, 3]),
        turnaround=st.sampled_from([0, 5]),
        booked=st.lists(leases, min_size=12, max_size=18),
        asked=st.lists(questions, min_size=3, max_size=5),
    )
    def build(
        self,
        shape: list[list[int]],
        lead: int,
        turnaround: int,
        booked: list[tuple[int, int, int]],
        asked: list[tuple[int, int, int]],
    ) -> None:
        """Much is booked before anything else happens: otherwise most would be closed by then."""
        self.ground = Ground()
        model = self.ground.model
        model.lead_seconds, model.turnaround_seconds = 60 * lead, 60 * turnaround
        model.save()
        Gpu.objects.all().delete()
        rebuild(self.ground.host.pk)
        for number, nodes in enumerate(shape, 2):
            key = f"{number:02d}"
            host = Host.objects.create(
                id=UUID(int=number),
                name=f"hv{number}",
                account=f"hv{number}",
                signing_key=key * 32,
                key_id=key * 8,
                sealing_key=key * 32,
            )
            for index, node in enumerate(nodes):
                Gpu.objects.create(
                    id=UUID(int=10 * number + index), host=host, model=model,
                    address=f"0000:{index:02x}:00.0", numa_node=node, state="clean",
                    state_since=NOW, share_vcpus=1, share_memory_mib=1, share_disk_gib=1,
                )  # fmt: skip
            rebuild(host.pk)
        self.flavors = [
            Flavor.objects.create(slug=f"{count}-{numa}", name="x", model=model, gpu_count=count, numa=numa)
            for count in (1, 2, 3)
            for numa in Flavor.Numa
        ]
        for wish in booked:
            self.place(*wish)
        for question in asked:
            self.answer(*question)

    @rule(wish=leases)
    def book(self, wish: tuple[int, int, int]) -> None:
        self.place(*wish)

    def place(self, which: int, start: int, length: int) -> None:
        flavor, starts_at = self.flavors[which], self.now + start * MINUTE
        ends_at = starts_at + length * MINUTE
        oracle = self.oracle(flavor)
        lease = self.ground.lease(flavor=flavor, starts_at=starts_at, ends_at=ends_at)
        room = oracle.room_left(starts_at, ends_at)
        try:
            holds.place(lease, now=self.now)
        except NothingFree:
            assert not oracle.fits(starts_at, ends_at)
            self.told["refused"] += 1
            return
        self.told["booked"] += 1
        assert oracle.fits(starts_at, ends_at)
        held = list(lease.holds.select_related("gpu"))
        (host_id,) = {hold.gpu.host_id for hold in held}
        assert len(held) == flavor.gpu_count
        assert {(hold.starts_at, hold.ends_at) for hold in held} == {oracle.window(starts_at, ends_at)}
        if flavor.numa == Flavor.Numa.REQUIRED:
            assert len({hold.gpu.numa_node for hold in held}) == 1
        if starts_at > self.now + timedelta(seconds=flavor.model.lead_seconds):
            assert room[host_id] == min(room.values()), "it goes where the fewest are free together"
            assert {hold.gpu_id for hold in held} in oracle.best_on(host_id, starts_at, ends_at)
        self.leases.append(lease)

    @rule(act=st.sampled_from(["drop", "shrink", "lengthen", "move"]), number=numbers, by=lengths)
    def change(self, act: str, number: int, by: int) -> None:
        if not self.leases:
            return
        lease = self.leases[number % len(self.leases)]
        match act:
            case "drop":
                holds.drop(lease)
                self.leases.remove(lease)
            case "shrink" if lease.starts_at < self.now:
                holds.shrink(lease, now=self.now)
                self.leases.remove(lease)
            case "move":
                moving.move(lease, now=self.now, only_ready=False)
            case "lengthen":
                self.lengthen(lease, by)

    def lengthen(self, lease: Lease, by: int) -> None:
        try:
            with transaction.atomic():
                holds.lengthen(lease, lease.ends_at + by * MINUTE)
        except NothingFree:
            return
        lease.ends_at += by * MINUTE
        lease.save()

    @rule(number=numbers, start=minutes, length=lengths, whole=st.booleans(), ever=st.integers(0, 7))
    def close(self, number: int, start: int, length: int, whole: bool, ever: int) -> None:
        gpu = self.gpu(number)
        starts_at = self.now + start * MINUTE
        ends_at = None if ever == 7 else starts_at + length * MINUTE
        Closure.objects.create(
            host=gpu.host, gpu=None if whole else gpu, starts_at=starts_at, ends_at=ends_at, created_at=NOW
        )
        refresh_host(gpu.host_id, starts_at, ends_at)

    @rule()
    def reopen(self) -> None:
        for closure in Closure.objects.order_by("id")[:1]:
            closure.delete()
            refresh_host(closure.host_id, self.now, None)

    @rule(number=numbers, event=st.sampled_from([GpuEvent.WITHDRAW, GpuEvent.READMIT]))
    def break_or_repair(self, number: int, event: GpuEvent) -> None:
        gpu = self.gpu(number)
        try:
            apply_gpu_event(gpu_id=gpu.pk, event=event, actor=SYSTEM, effective_at=self.now, now=self.now)
        except TransitionRefused:
            return

    @rule(by=st.integers(1, LENGTH // 2))
    def pass_time(self, by: int) -> None:
        self.now += by * MINUTE
        forget_past(self.now)

    @invariant()
    def the_table_is_what_the_rows_say(self) -> None:
        assert list(openings_match_holds(self.now)) == []

    @rule(question=questions)
    def ask(self, question: tuple[int, int, int]) -> None:
        self.answer(*question)

    def answer(self, which: int, ahead: int, length: int) -> None:
        flavor, earliest, duration = self.flavors[which], self.now + ahead * MINUTE, length * MINUTE
        oracle = self.oracle(flavor)
        self.told["asked"] += 1
        start = find_start(flavor, duration, earliest=earliest, now=self.now)
        assert start == oracle.first_start(duration, earliest)
        deadline = earliest + duration + LENGTH // 2 * MINUTE
        in_time = start if start is not None and start + duration <= deadline else None
        assert find_start(flavor, duration, earliest=earliest, deadline=deadline, now=self.now) == in_time
        until = earliest + duration
        longest = longest_end(flavor, earliest, until=until, now=self.now)
        assert longest == oracle.longest_end(earliest, until)
        far = earliest + 3 * LENGTH * MINUTE
        spans = bookable(flavor, earliest, far, now=self.now)
        for start in (earliest, until, far - SHORTEST_LEASE):
            ends = [moment(span.ends) for span in spans if moment(span.starts) <= start < moment(span.ends)]
            lasting = [end for end in ends if end - start >= SHORTEST_LEASE]
            assert max(lasting, default=None) == oracle.longest_end(start, far)

    def gpu(self, number: int) -> Gpu:
        gpus = Gpu.objects.order_by("host__name", "address")
        return gpus[number % len(gpus)]

    def oracle(self, flavor: Flavor) -> Oracle:
        return Oracle(flavor, now=self.now, horizon=self.now + HORIZON)


@pytest.mark.django_db
@pytest.mark.timeout(max(60, 2 * FLEETS))
def test_every_answer_is_the_slow_truth() -> None:
    run_state_machine_as_test(
        Fleet,
        settings=chosen(FLEETS, stateful_step_count=20, database=None),
    )
    assert Fleet.told["booked"] >= 3 * FLEETS, "most of these fleets are nearly empty"
    assert Fleet.told["asked"] >= 3 * FLEETS, "most of these fleets were asked nothing"
