"""What the host says it has: stable while a card is in use, complete, and not repeated to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts.agent.bus import Card
from hosts.agent.inventory import take_inventory
from hosts.agent.simulated import Fault, inject
from hosts.agent.watch import Watch
from hosts.protocol.codec import OLDEST, PROTOCOL
from hosts.protocol.messages import Fingerprint, Inventory
from tests.agent.host_in_a_box import Box, a_box, gpu_order

LEASE = "lease:1"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        yield box


def fingerprint(inventory: Inventory, number: int) -> Fingerprint:
    address = gpu_order(number).address
    return next(card.fingerprint for card in inventory.cards if card.address == address)


def addresses(inventory: Inventory) -> set[str]:
    return {card.address for card in inventory.cards}


def answer_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As sysfs reads while a machine has the card: no extended configuration, and a ROM left alone."""
    read = "hosts.agent.simulated._identity"
    unread = Fingerprint(vendor_device="1234:a600", subsystem="1234:0001", firmware="revision 01")
    monkeypatch.setattr(read, lambda *_, **__: unread)


def test_a_leased_card_looks_as_it_did_when_nobody_used_it(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    before = take_inventory(box.rig)
    box.carry_out(box.provision(box.intake()), subject=LEASE)
    answer_nothing(monkeypatch)
    box.restart()
    assert box.last(Inventory).restarted
    assert fingerprint(box.last(Inventory), 0) == fingerprint(before, 0)
    assert fingerprint(box.last(Inventory), 1) != fingerprint(before, 1)


def test_a_card_that_came_back_changed_is_told_once_nobody_uses_it(box: Box) -> None:
    order = box.intake()
    box.carry_out(box.provision(order), subject=LEASE)
    before = take_inventory(box.rig)
    inject(
        box.bus_directory,
        Fault(operation="reset", address=order.address, rung="vfio-hot-reset", kind="wrong-identity"),
    )
    box.carry_out(box.release(order), subject=LEASE)
    assert fingerprint(take_inventory(box.rig), 0) != fingerprint(before, 0)


def test_a_card_in_its_reset_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rung takes it off the bus and looks for it again."""
    order = gpu_order()
    seen: list[Inventory] = []

    def look_meanwhile(boundary: str) -> None:
        if boundary == "intake:reset:before":
            cards = tuple(card for card in host.rig.bus.cards() if card.address != order.address)
            with monkeypatch.context() as removed:
                removed.setattr(host.rig.bus, "cards", lambda **_: cards)
                seen.append(take_inventory(host.rig))

    with a_box(tmp_path, on_boundary=look_meanwhile) as host:
        host.intake()
        assert order.address in addresses(seen[0])
        inject(host.bus_directory, Fault(operation="card", address=order.address, kind="vanish"))
        Watch(host.rig).look()
        assert order.address not in addresses(host.last(Inventory))


def test_a_card_that_is_taken_while_it_is_read_counts_as_in_use(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = box.intake()
    before, cards = take_inventory(box.rig), box.rig.bus.cards

    def taken_meanwhile(**_: object) -> tuple[Card, ...]:
        box.rig.gpus.put(order, "leased", lease_id=None)
        answer_nothing(monkeypatch)
        return cards()

    monkeypatch.setattr(box.rig.bus, "cards", taken_meanwhile)
    assert fingerprint(take_inventory(box.rig), 0) == fingerprint(before, 0)


def test_what_the_portal_has_not_received_is_not_repeated(tmp_path: Path) -> None:
    """A portal that is away for weeks must not fill the disk."""
    with a_box(tmp_path, inventory_seconds=0.001) as box:
        watch = Watch(box.rig)
        for _ in range(3):
            watch.look()
        assert len(box.events(Inventory)) == 2  # the one at the start, and the watch's first
        box.rig.spool.forget(journal_id=box.rig.spool.journal_id, through=box.reports()[-1].sequence)
        watch.look()
        assert len(box.events(Inventory)) == 1


def test_a_portal_that_understands_more_is_told_again_at_once(tmp_path: Path) -> None:
    """What an older version has no words for was left out of what came before."""
    with a_box(tmp_path) as box:
        watch = Watch(box.rig)
        box.rig.spool.hear(OLDEST)
        watch.look()
        before = len(box.events(Inventory))
        box.rig.spool.hear(PROTOCOL)
        for _ in range(3):
            watch.look()
        assert len(box.events(Inventory)) == before + 1
