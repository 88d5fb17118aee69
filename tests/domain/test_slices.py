"""A card serves whole or in slices, never both: by the rules, and by the database without them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.db import IntegrityError, transaction

from hosts.models import Division, FoundCard, Gpu, GpuModel
from hosts.protocol import messages as m
from leasing import booking, fleet, slices
from leasing.audit.sealer import seal
from leasing.audit.verifier import verify_log
from leasing.ending import end_lease
from leasing.errors import DomainError, InvalidRequest, NotVisible, WrongState
from leasing.fsck import run_checks
from leasing.guards import NEVER_BOTH
from leasing.models import AuditEntry, Flavor, Lease, OutboxMessage
from leasing.states.gpu import GpuEvent, GpuState
from leasing.transitions import apply_gpu_event
from tests.domain.ground import Ground
from tests.world import MEMORY_BYTES, World, inventory

pytestmark = pytest.mark.django_db

HALF = MEMORY_BYTES // 2
PROFILE = m.SliceProfile(name="vf", kind="vf", title="Virtual function", most=2, memory_bytes=HALF)
MINUTE = timedelta(minutes=1)


class Slicing(World):
    """Two GPUs, of which the first can be divided into two slices."""

    def __init__(self) -> None:
        super().__init__()
        self.card = self.gpus[0]
        self.slice_model = GpuModel.objects.create(
            slug="half", name="Half an A6000", memory_mib=HALF >> 20, vendor_device="10de:2230"
        )
        self.half = Flavor.objects.create(slug="half", name="Half a studio", model=self.slice_model)
        self.price(self.half)
        self.show()

    def show(self, *addresses: str, divided: bool = False) -> None:
        """The host reports its cards, and slices at these addresses."""
        whole = inventory(*(gpu.address for gpu in self.gpus), machines=self.host.machines())
        part = m.SlicePart(parent=self.card.address, kind="vf", profile="vf")
        found = inventory(*addresses).cards
        made = [msgspec.structs.replace(each, part=part, memory_bytes=HALF) for each in found]
        first, *others = whole.cards
        refusal = "It is divided." if divided or addresses else ""
        first = msgspec.structs.replace(first, profiles=(PROFILE,), refusal=refusal)
        self.now += MINUTE
        event = msgspec.structs.replace(whole, cards=(first, *others, *made))
        assert self.host.say(event, at=self.now) == "applied"

    def divide(self, count: int = 2, profile: str = "vf", model: GpuModel | None = None) -> Division:
        return slices.divide_gpu(
            actor=self.actor(self.operator),
            gpu_id=self.card.pk,
            profile=profile,
            count=count,
            model_id=(model or self.slice_model).pk,
            now=self.now,
        )

    def undivide(self) -> Division:
        return slices.undivide_gpu(actor=self.actor(self.operator), gpu_id=self.card.pk, now=self.now)

    def answer(self, event: m.Event) -> str:
        self.tick()
        order = OutboxMessage.objects.filter(subject=f"gpu:{self.card.pk}").latest("created_at")
        return self.host.say(event, at=self.now, command=order)

    def divided(self) -> list[Gpu]:
        """The whole way: ordered, made, shown, proven clean."""
        self.divide()
        made = ("0000:01:00.4", "0000:01:00.5")
        told = m.Divided(gpu_id=self.card.pk, tenure=self.card.tenure, profile="vf", slices=made)
        assert self.answer(told) == "applied"
        self.show(*made)
        self.tick()
        for each in Gpu.objects.filter(parent=self.card):
            self.scrub(self.host, each)
        return list(Gpu.objects.filter(parent=self.card).order_by("address"))

    def state(self, gpu: Gpu) -> str:
        return Gpu.objects.get(pk=gpu.pk).state

    def book(self, flavor: Flavor) -> Lease:
        return booking.request_lease(
            actor=self.actor(self.ada),
            tenant=self.studio,
            flavor=flavor,
            image=self.image,
            starts_at=self.now + 5 * MINUTE,
            ends_at=self.now + 65 * MINUTE,
            now=self.now,
        )


@pytest.fixture
def world(db: None) -> Slicing:
    return Slicing()


def in_order(world: Slicing) -> bool:
    seal(now=world.now)
    return run_checks(world.now) == [] and verify_log().problems == []


def test_a_card_is_divided_leased_in_slices_and_made_whole(world: Slicing) -> None:
    first, second = world.divided()
    assert (first.state, second.state, world.state(world.card)) == ("clean", "clean", "maintenance")
    assert first.model == world.slice_model
    assert (first.share_vcpus, first.share_memory_mib) == (
        world.card.share_vcpus // 2,
        world.card.share_memory_mib // 2,
    )
    lease = world.book(world.half)
    assert lease.holds.get().gpu.parent == world.card
    with pytest.raises(WrongState, match="booked"):
        world.undivide()
    end_lease(actor=world.actor(world.ada), lease_id=lease.pk, now=world.now)
    world.undivide()
    assert world.answer(m.Undivided(gpu_id=world.card.pk, tenure=world.card.tenure)) == "applied"
    world.show()
    world.tick()
    assert world.state(world.card) == "dirty"
    world.scrub(world.host, world.card)
    assert world.state(world.card) == "clean"
    assert {world.state(each) for each in (first, second)} == {"maintenance"}
    told = AuditEntry.objects.filter(subject=f"gpu:{world.card.pk}", action__contains="divide")
    assert [entry.action for entry in told.order_by("id")] == [
        "gpu.divide",
        "gpu.divided",
        "gpu.undivide",
        "gpu.undivided",
    ]
    assert in_order(world)


def test_slices_that_were_shown_before_the_host_said_that_they_are_made_come_in(world: Slicing) -> None:
    world.divide()
    world.show("0000:01:00.4", "0000:01:00.5")
    assert not Gpu.objects.filter(parent=world.card).exists()
    made = m.Divided(gpu_id=world.card.pk, tenure=0, profile="vf", slices=())
    assert world.answer(made) == "applied"
    assert Gpu.objects.filter(parent=world.card, state="dirty").count() == 2


def test_divided_again_the_same_slices_go_on_as_what_they_are_then(world: Slicing) -> None:
    first, second = world.divided()
    world.undivide()
    world.answer(m.Undivided(gpu_id=world.card.pk, tenure=0))
    world.show()
    world.tick()
    world.scrub(world.host, world.card)
    other = GpuModel.objects.create(slug="h2", name="Half", memory_mib=8, vendor_device="10de:2230")
    world.now += MINUTE
    world.divide(model=other)
    world.answer(m.Divided(gpu_id=world.card.pk, tenure=0, profile="vf", slices=()))
    world.show(first.address, second.address)
    again = Gpu.objects.filter(parent=world.card).order_by("address")
    assert [(gpu.pk, gpu.state, gpu.model) for gpu in again] == [
        (each.pk, "dirty", other) for each in (first, second)
    ]
    assert in_order(world)


def not_clean(world: Slicing) -> None:
    fleet.withdraw_gpu(actor=world.actor(world.operator), gpu_id=world.card.pk, reason="look", now=world.now)


def booked(world: Slicing) -> None:
    for _ in world.gpus:
        world.book(world.flavor)


def old(world: Slicing) -> None:
    world.host.row.__class__.objects.update(protocol=1)


REFUSED: dict[str, tuple[Callable[[Slicing], object], type[DomainError], str]] = {
    "not clean": (not_clean, WrongState, "proven clean"),
    "booked": (booked, WrongState, "booked"),
    "old program": (old, WrongState, "too old"),
    "divided": (lambda world: world.divided(), WrongState, "divided into slices"),
}


@pytest.mark.parametrize(("before", "kind", "reason"), REFUSED.values(), ids=REFUSED)
def test_not_divided(
    world: Slicing, before: Callable[[Slicing], object], kind: type[DomainError], reason: str
) -> None:
    def both() -> None:
        before(world)
        world.divide()

    with pytest.raises(kind, match=reason):
        both()


def test_the_choice_has_to_be_one_that_the_card_offers(world: Slicing) -> None:
    choices: tuple[tuple[dict[str, Any], str], ...] = (
        ({"profile": "x"}, "in this way"),
        ({"count": 3}, "1 to 2"),
        ({"count": 0}, "1 to 2"),
        ({"model": world.model}, "less memory"),
    )
    for chosen, reason in choices:
        with pytest.raises(InvalidRequest, match=reason):
            world.divide(**chosen)
    assert not Division.objects.exists()


def test_only_operators_divide(world: Slicing) -> None:
    with pytest.raises(NotVisible):
        slices.divide_gpu(
            actor=world.actor(world.ada),
            gpu_id=world.card.pk,
            profile="vf",
            count=2,
            model_id=world.slice_model.pk,
            now=world.now,
        )


def test_while_it_is_divided_the_card_does_not_come_back_as_a_whole(world: Slicing) -> None:
    world.divided()
    with pytest.raises(WrongState, match="divided into slices"):
        fleet.readmit_gpu(actor=world.actor(world.operator), gpu_id=world.card.pk, now=world.now)


def test_once_it_is_whole_no_slice_comes_back(world: Slicing) -> None:
    first, _ = world.divided()
    world.undivide()
    world.answer(m.Undivided(gpu_id=world.card.pk, tenure=0))
    with pytest.raises(WrongState, match="not divided any more"):
        fleet.readmit_gpu(actor=world.actor(world.operator), gpu_id=first.pk, now=world.now)


def test_a_slice_that_the_portal_did_not_make_is_not_taken(world: Slicing) -> None:
    world.show("0000:01:00.4")
    card = FoundCard.objects.get(address="0000:01:00.4")
    with pytest.raises(WrongState, match="not divided by this portal"):
        fleet.admit_gpu(
            actor=world.actor(world.operator), card_id=card.pk, model_id=world.model.pk, now=world.now
        )


@pytest.mark.parametrize("refuses", [True, False])
def test_what_cannot_be_divided_comes_back_by_an_intake(world: Slicing, refuses: bool) -> None:
    division = world.divide()
    if refuses:
        world.answer(m.Refused(reason="The driver refuses."))
    else:
        world.answer(
            m.DivisionFailed(gpu_id=world.card.pk, tenure=0, reason="The driver refuses.", divided=False)
        )
    division.refresh_from_db()
    assert (division.state, division.reason) == ("failed", "The driver refuses.")
    assert world.state(world.card) == "dirty"
    world.tick()
    world.scrub(world.host, world.card)
    assert world.state(world.card) == "clean"
    assert in_order(world)


def test_what_cannot_be_made_whole_serves_in_slices_again(world: Slicing) -> None:
    first, _ = world.divided()
    world.now += MINUTE
    division = world.undivide()
    failed = m.DivisionFailed(gpu_id=world.card.pk, tenure=0, reason="in use", divided=True)
    assert world.answer(failed) == "applied"
    division.refresh_from_db()
    assert (division.state, world.state(first), world.state(world.card)) == ("stands", "dirty", "maintenance")
    assert in_order(world)


def test_slices_that_vanish_are_missing_and_the_division_stands(world: Slicing) -> None:
    first, second = world.divided()
    world.show(first.address)
    assert (world.state(first), world.state(second)) == ("clean", "missing")
    assert Division.objects.get().state == "stands"
    assert in_order(world)


def test_a_host_that_lost_its_journal_is_told_what_is_divided(world: Slicing) -> None:
    world.divided()
    world.host.journal_id, world.host.sequence = UUID(int=7), 0
    world.show("0000:01:00.4", "0000:01:00.5")
    order = OutboxMessage.objects.filter(subject=f"gpu:{world.card.pk}").latest("created_at")
    assert (order.kind, order.answered_at) == ("divide", None)


def refused() -> pytest.RaisesExc[IntegrityError]:
    return pytest.raises(IntegrityError, match=NEVER_BOTH)


@pytest.mark.parametrize("state", ["clean", "leased", "dirty", "scrubbing"])
def test_the_database_itself_has_no_card_serve_in_both_ways(ground: Ground, state: str) -> None:
    whole, part = ground.gpu, ground.other_gpu
    Gpu.objects.filter(pk=whole.pk).update(state="maintenance")
    Gpu.objects.filter(pk=part.pk).update(parent=whole)
    with refused(), transaction.atomic():
        Gpu.objects.filter(pk=whole.pk).update(state=state)
    Gpu.objects.filter(pk=part.pk).update(state="maintenance")
    Gpu.objects.filter(pk=whole.pk).update(state=state)
    with refused(), transaction.atomic():
        Gpu.objects.filter(pk=part.pk).update(state="dirty")
    with refused(), transaction.atomic():
        Gpu.objects.create(
            host=ground.host,
            model=ground.model,
            parent=whole,
            address="0000:01:00.7",
            state_since=ground.now,
            share_vcpus=1,
            share_memory_mib=128,
            share_disk_gib=1,
        )


def test_fsck_finds_a_slice_of_a_whole_card(world: Slicing) -> None:
    world.divided()
    Division.objects.update(state="over")
    assert {finding.check for finding in run_checks(world.now)} == {"slices"}


def test_the_table_alone_would_let_both_serve(world: Slicing) -> None:
    """So that the database's rule is what stops it, were the readmission's rule forgotten."""
    world.divided()
    with refused(), transaction.atomic():
        apply_gpu_event(
            gpu_id=world.card.pk,
            event=GpuEvent.READMIT,
            actor=world.actor(world.operator),
            effective_at=world.now,
            now=world.now,
        )
    assert world.state(world.card) == GpuState.MAINTENANCE
