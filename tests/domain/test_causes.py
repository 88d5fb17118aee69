"""What is told of a few blocks is what all of them would tell, whatever is booked, kept, closed or broken.

Set LEASEHOLD_FLEETS to try that many others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from uuid import UUID

import pytest
from django.db import transaction
from django.db.models import Q

from hosts.models import Gpu, Host
from leasing import obstacles
from leasing.causes import Blocked, Cause
from leasing.extras import PLAIN, Extras
from leasing.holds import window
from leasing.models import Block, Closure, Extension, Flavor, Hold, Lease, Person, WaitlistEntry
from leasing.obstacles import in_the_way, telling
from leasing.openings.upkeep import rebuild
from leasing.states.gpu import BOOKABLE
from leasing.states.lease import LeaseState
from tests.chosen import how_many
from tests.domain.ground import NOW, Ground

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)
FLEETS = how_many(16)
LEAD, TURNAROUND = 2, 5
# A hold that overruns grows until so long from now.
STEP = 60
LENGTH = 60
told: Counter[str] = Counter()


def slow_truth(
    flavor: Flavor, starts_at: datetime, ends_at: datetime, *, person: Person, hosts: frozenset[UUID]
) -> list[Blocked]:
    """The causes of every GPU of the model on these hosts, from each hold, closure and entry there is."""
    span = window(flavor, starts_at, ends_at, now=NOW)
    causes: dict[UUID, set[Cause]] = defaultdict(set)
    for hold in Hold.objects.filter(starts_at__lt=span[1], ends_at__gt=span[0]).select_related("lease"):
        causes[hold.gpu_id].add(cause_of(hold.lease, starts_at, ends_at, person))
    for entry in WaitlistEntry.objects.filter(kept_from__lt=span[1], kept_until__gt=span[0]):
        for gpu in entry.kept_gpus.all():
            causes[gpu.pk].add(Cause.KEPT)
    met = Closure.objects.filter(Q(ends_at=None) | Q(ends_at__gt=span[0]), starts_at__lt=span[1])
    groups: dict[tuple[UUID, int], list[frozenset[Cause]]] = defaultdict(list)
    for gpu in Gpu.objects.filter(model=flavor.model, host__in=hosts):
        closed = any(one.host_id == gpu.host_id and one.gpu_id in (None, gpu.pk) for one in met)
        if closed or gpu.state not in BOOKABLE:
            causes[gpu.pk].add(Cause.OUT_OF_SERVICE)
        node = gpu.numa_node if flavor.numa == Flavor.Numa.REQUIRED else 0
        groups[gpu.host_id, node].append(frozenset(causes[gpu.pk]))
    return list(groups.values())


def cause_of(lease: Lease, starts_at: datetime, ends_at: datetime, person: Person) -> Cause:
    if lease.state == LeaseState.OFFERED:
        return Cause.KEPT
    if lease.starts_at >= ends_at or lease.ends_at <= starts_at:
        return Cause.TURNAROUND
    return Cause.OWN if lease.owner_id == person.pk else Cause.OTHERS


class Fleet:
    """Hosts whose GPUs are held in every way that the portal holds them."""

    def __init__(self, dice: Random) -> None:
        self.dice, self.ground = dice, Ground()
        self.person = self.ground.person
        self.other = Person.objects.create(username="bob", email="bob@example.org")
        self.model = self.ground.model
        self.model.lead_seconds, self.model.turnaround_seconds = 60 * LEAD, 60 * TURNAROUND
        self.model.save()
        Gpu.objects.all().delete()
        Block.objects.all().delete()

    def fill(self) -> None:
        """What the GPUs of most hosts have is alike: the more so, the rarer is the one that tells."""
        usual = self.dice.choices(KINDS, k=self.dice.randint(1, 3))
        for number in range(self.dice.randint(2, 6)):
            kinds = [self.dice.choice(OTHER_KINDS)] if self.dice.random() < 0.5 else usual
            self.add_host(number, self.dice.choices([0, 0, 1], k=self.dice.randint(2, 3)), kinds)

    def add_host(self, number: int, nodes: list[int], kinds: list[str]) -> None:
        key = f"{number + 2:02d}"
        host = Host.objects.create(
            name=f"hv{number + 2}", account=f"hv{number + 2}", signing_key=key * 32, key_id=key * 8,
            sealing_key=key * 32,
        )  # fmt: skip
        for index, node in enumerate(nodes):
            kind = self.dice.choice(kinds)
            gpu = Gpu.objects.create(
                host=host, model=self.model, address=f"0000:{index:02x}:00.0", numa_node=node,
                state="maintenance" if kind == "broken" else "clean", state_since=NOW,
                share_vcpus=1, share_memory_mib=1, share_disk_gib=1,
            )  # fmt: skip
            self.take(gpu, kind)
        rebuild(host.pk)

    def take(self, gpu: Gpu, kind: str) -> None:
        start, length = self.dice.randint(1, 15), self.dice.randint(LENGTH // 2, LENGTH)
        match kind:
            case "others" | "own":
                self.hold(gpu, start, start + length, owner=self.person if kind == "own" else self.other)
            case "twice":
                self.hold(gpu, start, start + length)
                self.hold(gpu, start + length + TURNAROUND + LEAD, start + 2 * length + 20)
            case "offered":
                entry = self.ground.waiting(owner=self.other)
                self.hold(gpu, start, start + length, state="offered", entry=entry, decide_by=NOW)
            case "longer":
                self.extend(gpu, start, start + length)
            case "overrun":
                state = self.dice.choice(["active", "releasing", "dirty", "scrubbing"])
                self.overrun(gpu, state, self.dice.randint(1, STEP))
            case "late":
                self.hold(gpu, start, start + length, since=start + self.dice.randint(0, length - 1))
            case "stopped":
                self.hold(gpu, -LENGTH, length, until=self.dice.randint(1, TURNAROUND))
            case "closed":
                self.close(gpu, start, length)
            case "kept":
                self.keep(gpu, start, start + length)

    def hold(
        self,
        gpu: Gpu,
        start: int,
        end: int,
        *,
        since: int | None = None,
        until: int | None = None,
        owner: Person | None = None,
        **facts: object,
    ) -> Lease:
        owner = owner or self.dice.choice([*[self.other] * 3, self.person])
        window = {"starts_at": NOW + start * MINUTE, "ends_at": NOW + end * MINUTE}
        lease = self.ground.lease(owner=owner, **window, **facts)
        since = start - LEAD if since is None else since
        until = end + TURNAROUND if until is None else until
        Hold.objects.create(
            lease=lease, gpu=gpu, starts_at=NOW + since * MINUTE, ends_at=NOW + until * MINUTE
        )
        return lease

    def extend(self, gpu: Gpu, start: int, end: int) -> None:
        more = self.dice.randint(1, LENGTH)
        lease = self.hold(gpu, start, end, until=end + more + TURNAROUND, state="active")
        Extension.objects.create(
            lease=lease, old_ends_at=lease.ends_at, new_ends_at=lease.ends_at + more * MINUTE,
            rate_per_hour=1, currency="EUR", quoted_total=1, asked_by=self.other, asked_at=NOW,
            state="pending", state_since=NOW,
        )  # fmt: skip

    def overrun(self, gpu: Gpu, state: str, until: int) -> None:
        """The lease is over, its GPU is not back: in this state is one or the other."""
        gone = self.dice.randint(0, LENGTH)
        lease = self.hold(gpu, -LENGTH - gone, -gone, until=until, state="active")
        if state in ("dirty", "scrubbing"):
            Gpu.objects.filter(pk=gpu.pk).update(state=state, tenure=7)
            lease.holds.update(tenure=7)
            lease.state, lease.outcome = "ended", "completed"
        else:
            lease.state = state
        lease.save()

    def close(self, gpu: Gpu, start: int, length: int) -> None:
        whole, lasting = self.dice.random() < 0.5, self.dice.random() < 0.5
        Closure.objects.create(
            host=gpu.host, gpu=None if whole else gpu, starts_at=NOW + start * MINUTE, created_at=NOW,
            ends_at=None if lasting else NOW + (start + length) * MINUTE,
        )  # fmt: skip

    def keep(self, gpu: Gpu, start: int, end: int) -> None:
        """A block is kept for one entry."""
        block = Block.objects.get_or_create(host=gpu.host, model=self.model)[0]
        if block.kept_for is None:
            block.kept_for = self.ground.waiting(
                owner=self.other, kept_from=NOW + start * MINUTE, kept_until=NOW + end * MINUTE
            )
            block.save()
        block.kept_for.kept_gpus.add(gpu)

    def flavors(self) -> Iterator[Flavor]:
        for count in (1, 2):
            for numa in Flavor.Numa:
                yield Flavor.objects.create(
                    slug=f"{count}-{numa}", name="x", model=self.model, gpu_count=count, numa=numa
                )


KINDS = ["others", "others", "own", "twice", "offered", "longer", "late", "stopped"]
OTHER_KINDS = [*KINDS[1:], *["overrun", "broken", "closed", "kept"] * 2, "free"]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fleets of a few hosts, as many are left unread as in large ones."""
    for name in ("FIRST", "CLOSEST"):
        monkeypatch.setattr(obstacles, name, 1)
    monkeypatch.setattr(obstacles, "MORE", 2)


def ask_of_a_fleet(dice: Random) -> None:
    fleet = Fleet(dice)
    fleet.fill()
    edges = sorted({edge for times in Lease.objects.values_list("starts_at", "ends_at") for edge in times})
    for flavor in fleet.flavors():
        for _ in range(8):
            starts_at = NOW + dice.randint(0, LENGTH) * MINUTE
            ends_at = starts_at + dice.randint(1, LENGTH // 2) * MINUTE
            if dice.random() < 0.3:
                ends_at = next((edge for edge in edges if edge > starts_at), ends_at)
            extras = reach(dice, flavor) if dice.random() < 0.25 else PLAIN
            ask(fleet, flavor, starts_at, ends_at, extras)


def reach(dice: Random, flavor: Flavor) -> Extras:
    """Something that only some blocks can give."""
    extras = Extras(host_id=UUID(int=1))
    blocks = list(Block.objects.order_by("pk").values_list("pk", flat=True))
    extras._reached[flavor.pk] = frozenset(dice.sample(blocks, k=dice.randint(1, len(blocks))))
    return extras


def ask(fleet: Fleet, flavor: Flavor, starts_at: datetime, ends_at: datetime, extras: Extras) -> None:
    found = in_the_way(flavor, starts_at, ends_at, person=fleet.person, extras=extras, now=NOW)
    within = extras.reach(flavor)
    blocks = Block.objects.all() if within is None else Block.objects.filter(pk__in=within)
    hosts = frozenset(blocks.values_list("host_id", flat=True))
    truth = slow_truth(flavor, starts_at, ends_at, person=fleet.person, hosts=hosts)
    large = any(len(group) >= flavor.gpu_count for group in truth)
    expected = [str(cause) for cause in telling(truth, flavor.gpu_count)]
    if not large:
        expected = ["too-few-together" if extras is PLAIN else "too-few-with-extras"]
    assert [reason.code for reason in found.reasons] == expected
    told[" ".join(expected)] += 1
    span = window(flavor, starts_at, ends_at, now=NOW)
    own = Lease.objects.filter(owner=fleet.person, holds__starts_at__lt=span[1], holds__ends_at__gt=span[0])
    own = own.exclude(state=LeaseState.OFFERED)
    assert set(found.own) == (set(own) if Cause.OWN in expected else set())


def test_a_few_blocks_tell_what_all_of_them_would() -> None:
    told.clear()
    for number in range(FLEETS):
        with transaction.atomic():
            ask_of_a_fleet(Random(number))
            transaction.set_rollback(True)
    named = Counter(code for codes, count in told.items() for code in codes.split() * count)
    assert all(named[cause] >= FLEETS // 2 for cause in Cause), told
    assert len(told) > FLEETS // 2, "causes are told alone and with others"


def a_few_that_are_booked() -> tuple[Fleet, Gpu]:
    """Three hosts that somebody else has for the next hour, and the GPU of one that is free."""
    fleet = Fleet(Random(1))
    for number in range(4):
        fleet.add_host(number, [0], ["free"])
    *booked, gpu = Gpu.objects.order_by("host__name")
    for one in booked:
        fleet.hold(one, 0, LENGTH, owner=fleet.other)
    return fleet, gpu


def asked(fleet: Fleet, start: int, end: int) -> list[str]:
    """Of a window for one GPU."""
    for host in Host.objects.all():
        rebuild(host.pk)
    window = NOW + start * MINUTE, NOW + end * MINUTE
    found = in_the_way(next(fleet.flavors()), *window, person=fleet.person, extras=PLAIN, now=NOW)
    return [reason.code for reason in found.reasons]


@pytest.mark.parametrize("state", ["active", "releasing", "dirty", "scrubbing"])
def test_what_is_not_back_long_after_its_end_is_only_to_be_cleaned(state: str) -> None:
    fleet, gpu = a_few_that_are_booked()
    fleet.overrun(gpu, state, 2 * LENGTH)
    assert asked(fleet, 20, 40) == [Cause.OTHERS, Cause.TURNAROUND]


@pytest.mark.parametrize("start", [20, 40 - LEAD - TURNAROUND, 38])
def test_minutes_at_either_edge_are_told_of_windows_of_any_length(start: int) -> None:
    fleet, gpu = a_few_that_are_booked()
    fleet.hold(gpu, 40, LENGTH, owner=fleet.other)
    fleet.hold(gpu, 1, min(start, 40 - LEAD - TURNAROUND), owner=fleet.other)
    assert asked(fleet, start, 40) == [Cause.OTHERS, Cause.TURNAROUND]
