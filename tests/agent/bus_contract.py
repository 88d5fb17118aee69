"""What every PCI bus must do for a leasable card: run on the simulated bus, on files, and in the lab.

Plain functions of (bus, address), so that a hypervisor without a test runner can run them, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from secrets import token_hex

from hosts.agent import scrub
from hosts.agent.bus import CardMissing, PciBus
from hosts.agent.reset import climb
from hosts.agent.scrubber import Workplace
from hosts.agent.scrubbers import load_scrubbers
from hosts.protocol.messages import ScrubEvidence, ScrubPolicy

SECRET = b"a tenant's secret"


def scrub_now(bus: PciBus, address: str, method: str = "bar") -> ScrubEvidence:
    """Reset, plant, fill, verify, reset and conclude, as a release does."""
    card, policy = bus.card(address), ScrubPolicy(methods=(method,))
    before, now = bus.fingerprint(card), datetime.now(UTC)
    work = scrub.begin(card, simulated=bus.simulated, before=before, kernel="test", now=now)
    work = scrub.add_reset(work, climb(bus, card, clock=time.monotonic))
    with bus.memory(card) as window:
        work = scrub.plant(work, window, token_hex(16))
    place = Workplace(
        bus=bus,
        card=card,
        progress=lambda done, total: None,
        climb=lambda: climb(bus, card, clock=time.monotonic),
    )
    work = scrub.fill(work, load_scrubbers()[method], place)
    with bus.memory(card) as window:
        work = scrub.verify(work, window, policy.read_back)
    work = scrub.add_reset(work, climb(bus, card, clock=time.monotonic))
    after = bus.fingerprint(card)
    return scrub.conclude(work, policy=policy, fingerprint_after=after, kernel="test", now=datetime.now(UTC))


def lists_the_card(bus: PciBus, address: str) -> None:
    card = bus.card(address)
    assert card in bus.cards()
    assert card.refusal == ""
    assert card.address == address == card.functions[0]
    assert card.iommu_group is not None
    assert card.memory_bytes > 0
    assert bus.dead_because(card) == ""


def says_what_is_missing(bus: PciBus, address: str) -> None:
    try:
        bus.card("fffe:1f:1f.7")
    except CardMissing as error:
        assert "fffe:1f:1f.7" in str(error)  # noqa: PT017 — runs without pytest, too
    else:
        raise AssertionError("A card was found where none is.")


def binds_every_function_once_and_again(bus: PciBus, address: str) -> None:
    card = bus.card(address)
    bus.bind(card)
    assert bus.is_bound(card)
    bus.bind(card)
    assert bus.is_bound(bus.card(address))


def memory_keeps_what_is_written(bus: PciBus, address: str) -> None:
    card = bus.card(address)
    bus.bind(card)
    with bus.memory(card) as window:
        assert window.size == card.memory_bytes
        window.fill(0, window.size, 0)
        window.fill(100, len(SECRET), SECRET)
        window.fill(window.size - 1, 1, 1)
    with bus.memory(card) as window:
        assert window.read(100, len(SECRET)) == SECRET
        assert window.first_mismatch(0, window.size, 0) == 100
        assert window.first_mismatch(100 + len(SECRET), window.size - 100 - len(SECRET), 0) == window.size - 1
        assert window.first_mismatch(0, 100, 0) is None


def a_reset_does_not_scrub(bus: PciBus, address: str) -> None:
    card = bus.card(address)
    bus.bind(card)
    with bus.memory(card) as window:
        window.fill(4096, len(SECRET), SECRET)
    climb(bus, card, clock=time.monotonic)
    with bus.memory(card) as window:
        assert window.read(4096, len(SECRET)) == SECRET


def every_rung_leaves_the_card_bound_and_itself(bus: PciBus, address: str) -> None:
    card = bus.card(address)
    bus.bind(card)
    before = bus.fingerprint(card)
    rungs = bus.reset_rungs(card)
    assert rungs
    assert len({rung.method for rung in rungs}) == len(rungs)
    for rung in rungs:
        rung.run()
        assert bus.dead_because(card) == "", rung.method
        assert bus.is_bound(card), rung.method
        assert bus.fingerprint(card) == before, rung.method


def scrubbing_leaves_zeros_and_evidence(bus: PciBus, address: str) -> None:
    card = bus.card(address)
    bus.bind(card)
    with bus.memory(card) as window:
        window.fill(window.size // 2, len(SECRET), SECRET)
    evidence = scrub_now(bus, address)
    assert evidence.verdict == "passed", evidence.reasons
    assert evidence.witness is not None
    assert evidence.witness.read_bytes == card.memory_bytes
    assert len(evidence.resets) == 2
    with bus.memory(card) as window:
        assert window.first_mismatch(0, window.size, 0) is None


def describes_the_card_to_a_machine(bus: PciBus, address: str) -> None:
    card = bus.card(address)
    bus.bind(card)
    port, *devices = bus.gpu_fragments(card, slot=3)
    assert (port.tag, port.get("index"), port.get("model")) == ("controller", "3", "pcie-root-port")
    guest = [device.find("address") for device in devices]
    assert guest
    assert all(place is not None and place.get("bus") == "0x03" for place in guest)


CONTRACT: tuple[Callable[[PciBus, str], None], ...] = (
    lists_the_card,
    says_what_is_missing,
    binds_every_function_once_and_again,
    memory_keeps_what_is_written,
    a_reset_does_not_scrub,
    every_rung_leaves_the_card_bound_and_itself,
    scrubbing_leaves_zeros_and_evidence,
    describes_the_card_to_a_machine,
)
