"""Which card is which: what makes it the same one, and what its history says of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from hosts.models import FoundCard
from hosts.protocol import messages as m
from leasing.models import AuditEntry
from tests.world import ScriptedHost, World, inventory

pytestmark = pytest.mark.django_db
A, B = "0000:01:00.0", "0000:02:00.0"
MINUTE = timedelta(minutes=1)


@pytest.fixture
def world(db: None) -> World:
    return World(gpus=0)


def seen(world: World, *cards: m.CardFacts, host: ScriptedHost | None = None) -> None:
    """The next inventory of the host has these cards."""
    world.now += MINUTE
    event = msgspec.structs.replace(inventory(), cards=cards)
    assert (host or world.host).say(event, at=world.now) == "applied"


def card(address: str, serial: str = "", **changes: Any) -> m.CardFacts:
    facts = inventory(address).cards[0]
    print_of = msgspec.structs.replace(facts.fingerprint, **{"serial": serial, **changes})
    return msgspec.structs.replace(facts, fingerprint=print_of)


def told(row: FoundCard) -> list[str]:
    """Its history, the oldest first."""
    entries = AuditEntry.objects.filter(subject=f"card:{row.pk}").order_by("id")
    return [entry.action.removeprefix("card.") for entry in entries]


def all_told() -> list[list[str]]:
    return [told(row) for row in FoundCard.objects.order_by("id")]


def test_a_card_is_told_once_and_while_nothing_changes_nothing_is_told(world: World) -> None:
    for _ in range(3):
        seen(world, card(A, "S1"))
    assert all_told() == [["seen"]]


def test_a_card_that_is_gone_is_kept_with_its_history(world: World) -> None:
    seen(world, card(A, "S1"))
    seen(world)
    row = FoundCard.objects.get()
    assert row.gone_at == world.now
    seen(world, card(A, "S1"))
    assert all_told() == [["seen", "vanish", "return"]]


def test_a_serial_number_is_known_again_in_another_slot(world: World) -> None:
    seen(world, card(A, "S1"), card(B, "S2"))
    first = FoundCard.objects.get(address=A)
    seen(world, card(A, "S2"), card(B, "S1"))
    first.refresh_from_db()
    assert first.address == B
    assert all_told() == [["seen", "move"], ["seen", "move"]]
    moves = AuditEntry.objects.filter(action="card.move", subject=f"card:{first.pk}")
    assert f"hv1 {A} → hv1 {B}" in moves.get().text


def test_another_serial_number_in_the_slot_is_another_card(world: World) -> None:
    seen(world, card(A, "S1"))
    seen(world, card(A, "S2"))
    assert all_told() == [["seen", "vanish"], ["seen"]]


def test_without_serial_numbers_a_slot_tells_only_kinds_apart(world: World) -> None:
    seen(world, card(A))
    seen(world, card(A, rom_sha256="cd" * 32))
    assert all_told() == [["seen", "firmware"]]
    seen(world, card(B))
    assert all_told() == [["seen", "firmware", "vanish"], ["seen"]]
    seen(world, card(A, vendor_device="10de:1111"))
    assert len(all_told()) == 3


def test_a_serial_number_that_comes_or_goes_makes_a_changed_card_and_no_other(world: World) -> None:
    seen(world, card(A, "S1"))
    seen(world, card(A))
    seen(world, card(A, "S1"))
    assert all_told() == [["seen", "change", "change"]]


@pytest.mark.parametrize("serial", ["0" * 16, "f" * 16])
def test_a_number_that_the_maker_left_out_tells_nothing(world: World, serial: str) -> None:
    seen(world, card(A, serial))
    seen(world, card(B, serial))
    assert all_told() == [["seen", "vanish"], ["seen"]]


def test_a_number_that_two_cards_have_tells_nothing(world: World) -> None:
    seen(world, card(A, "S1"), card(B, "S1"))
    seen(world, card(A, "S1"), card(B, "S1"))
    assert all_told() == [["seen"], ["seen"]]


def test_firmware_that_changed_is_told_with_what_it_was(world: World) -> None:
    seen(world, card(A, "S1"))
    seen(world, card(A, "S1", rom_sha256="cd" * 32, firmware="revision b0"))
    entry = AuditEntry.objects.get(action="card.firmware")
    assert "firmware was unknown, is revision b0" in entry.text
    assert f"rom_sha256 was {'ab' * 6}…, is {'cd' * 6}…" in entry.text


def test_a_card_follows_to_another_host_once_the_first_misses_it_or_is_silent(world: World) -> None:
    other = world.enrol("hv2")
    seen(world, card(A, "S1"), card(B, "S2"))
    seen(world, card(B, "S2"))
    seen(world, card(A, "S1"), host=other)
    assert all_told() == [["seen", "vanish", "return", "move"], ["seen"]]
    world.now += timedelta(minutes=10)
    seen(world, card(A, "S1"), card(B, "S2"), host=other)
    assert all_told()[1] == ["seen", "move"]
    assert {row.host.name for row in FoundCard.objects.all()} == {"hv2"}


def test_a_host_cannot_take_a_card_away_from_one_that_sees_it(world: World) -> None:
    other = world.enrol("hv2")
    seen(world, card(A, "S1"))
    seen(world, card(A, "S1"), host=other)
    assert all_told() == [["seen"], ["seen"]]
    assert FoundCard.objects.order_by("id").first() == world.host.row.found_cards.get()
