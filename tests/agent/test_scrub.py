"""A scrub from its beginning to its evidence: what passes, and every way not to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from hosts.agent import scrub
from hosts.agent.bar import CHUNK, BarScrubber
from hosts.agent.bus import BusError, Card, CardMissing, MemoryWindow, Wedged
from hosts.agent.memory import MappedWindow, OneByOne
from hosts.agent.scrub import Scrub
from hosts.agent.scrubber import Outcome, Scrubber, ScrubFailed, Workplace
from hosts.agent.scrubbers import Installed
from hosts.agent.witness import BLOCK, CANARIES
from hosts.protocol.messages import Fingerprint, ScrubEvidence, ScrubPolicy
from tests.agent.memory_files import RESET, memory, workplace

SIZE = 3 * BLOCK + 4096
START = datetime(2030, 1, 1, tzinfo=UTC)
IDENTITY = Fingerprint(vendor_device="1234:1111", serial="1", rom_sha256="a" * 64)


def a_card(*, size: int = SIZE, ids: str = "1234:1111") -> Card:
    identity = msgspec.structs.replace(IDENTITY, vendor_device=ids)
    return Card("0000:01:00.0", ("0000:01:00.0",), 7, "GPU", size, 0, identity)


@pytest.fixture
def window(tmp_path: Path) -> Iterator[MappedWindow]:
    with memory(tmp_path, SIZE) as window:
        yield window


class Lying:
    """Claims all and does nothing."""

    name, version = "lying", "1"
    kind: Literal["overwrite"] = "overwrite"
    proven_on: tuple[str, ...] = ("*",)

    def run(self, place: Workplace) -> Outcome:
        size = place.card.memory_bytes
        return Outcome(
            reached_bytes=size, written_bytes=size, read_back_bytes=size, coverage="full", pattern="trust me"
        )


class Lazy(Lying):
    """Zeroes only what an honest-looking spot check would look at: the first and the last block."""

    name = "lazy"

    def run(self, place: Workplace) -> Outcome:
        with place.bus.memory(place.card) as window:
            window.fill(0, BLOCK, 0)
            window.fill(window.size - BLOCK, BLOCK, 0)
        return super().run(place)


class Resetting(Lying):
    """Resets the card twice, and cleans nothing."""

    name = "resetting"

    def run(self, place: Workplace) -> Outcome:
        place.reset()
        place.reset()
        return super().run(place)


class Failing(Lying):
    """Cannot do it."""

    name = "failing"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, place: Workplace) -> Outcome:
        raise self.error


def installed(scrubber: Scrubber) -> Installed:
    return Installed(scrubber, "d" * 64)


def begun(card: Card) -> Scrub:
    work = scrub.begin(card, simulated=True, before=card.fingerprint, kernel="6.1.0", now=START)
    return scrub.add_reset(work, RESET)


def scrubbed(
    window: MemoryWindow,
    *scrubbers: Scrubber,
    card: Card | None = None,
    read_back: Literal["full", "sampled"] = "full",
    tamper: Callable[[MemoryWindow], None] = lambda window: None,
) -> Scrub:
    """The whole course; `tamper` touches the memory after the fill."""
    card = card or a_card(size=window.size)
    work = scrub.plant(begun(card), window, "5eed")
    for scrubber in scrubbers or (BarScrubber(),):
        work = scrub.fill(work, installed(scrubber), workplace(window, card))
    tamper(window)
    return scrub.verify(work, window, read_back)


def concluded(work: Scrub, *, after: Fingerprint | None = None, **policy: object) -> ScrubEvidence:
    methods = tuple(record.name for record in work.methods) or ("bar",)
    return scrub.conclude(
        work,
        policy=ScrubPolicy(**{"methods": methods, **policy}),  # type: ignore[arg-type]
        fingerprint_after=after or work.fingerprint_before,
        kernel="6.1.0",
        now=START + timedelta(seconds=9),
    )


def test_a_good_scrub_passes_with_its_figures(window: MappedWindow) -> None:
    evidence = concluded(scrubbed(window))
    assert (evidence.verdict, evidence.reasons) == ("passed", ())
    (bar,) = evidence.methods
    assert (bar.name, bar.kind, bar.digest, bar.pattern) == ("bar", "overwrite", "d" * 64, "00")
    assert (bar.proven, bar.proven_on, bar.failure) == (True, ("1234:*",), "")
    assert bar.reached_bytes == bar.written_bytes == evidence.memory_bytes == SIZE
    assert evidence.witness is not None
    assert (evidence.witness.coverage, evidence.witness.read_bytes) == ("full", SIZE)
    assert (evidence.witness.canaries_planted, evidence.witness.canaries_found) == (CANARIES, 0)
    assert (evidence.fills, evidence.resets) == (1, (RESET,))
    assert (evidence.started_at, evidence.finished_at) == (START, START + timedelta(seconds=9))
    assert (evidence.simulated, evidence.kernel) == (True, "6.1.0")
    assert window.read(0, SIZE) == bytes(SIZE)


def test_times_are_taken_of_each_part(window: MappedWindow) -> None:
    ticks = iter(range(0, 100, 2))
    clock: Callable[[], float] = lambda: float(next(ticks))  # noqa: E731
    card = a_card()
    work = scrub.plant(begun(card), window, "5eed", clock=clock)
    work = scrub.fill(work, installed(BarScrubber()), workplace(window, card), clock=clock)
    work = scrub.verify(work, window, "full", clock=clock)
    assert work.witness is not None
    assert (work.methods[0].seconds, work.witness.seconds) == (2.0, 4.0)


def test_the_bar_scrubber_writes_all_of_it_once_and_says_how_far_it_is(window: MappedWindow) -> None:
    seen: list[tuple[int, int]] = []
    written: list[tuple[int, int, int]] = []

    class Watched(OneByOne):
        name, is_fast, size = window.name, window.is_fast, window.size
        read, first_mismatch = window.read, window.first_mismatch

        def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
            assert isinstance(pattern, int)
            written.append((offset, length, pattern))

    place = workplace(Watched(), a_card(), progress=lambda done, total: seen.append((done, total)))
    outcome = BarScrubber().run(place)
    assert SIZE < CHUNK
    assert written == [(0, SIZE, 0)]
    assert seen == [(SIZE, SIZE)]
    assert (outcome.reached_bytes, outcome.written_bytes) == (SIZE, SIZE)


def test_the_bar_scrubber_refuses_a_window_that_is_not_the_bar(window: MappedWindow) -> None:
    class Through(OneByOne):
        name, is_fast, size = "bar0-window", False, window.size
        fill, read, first_mismatch = window.fill, window.read, window.first_mismatch

    with pytest.raises(ScrubFailed, match="own page tables"):
        BarScrubber().run(workplace(Through(), a_card()))


@pytest.mark.parametrize("read_back", ["full", "sampled"])
@pytest.mark.parametrize("scrubber", [Lying(), Lazy(), Resetting()], ids=lambda scrubber: scrubber.name)
def test_a_lying_scrubber_is_caught_by_the_canaries(
    window: MappedWindow, scrubber: Scrubber, read_back: Literal["full", "sampled"]
) -> None:
    evidence = concluded(scrubbed(window, scrubber, read_back=read_back), read_back=read_back)
    assert evidence.verdict == "failed"
    assert evidence.witness is not None
    found = evidence.witness.canaries_found
    assert found > 0
    assert f"{found} of {CANARIES} canaries survived the scrub." in evidence.reasons


def test_memory_that_takes_no_writes_fails(window: MappedWindow) -> None:
    class Stuck(OneByOne):
        name, is_fast, size = window.name, window.is_fast, window.size
        read, first_mismatch = window.read, window.first_mismatch

        def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
            """Nothing is taken."""

    evidence = concluded(scrubbed(Stuck()))
    assert evidence.verdict == "failed"
    told = f"{CANARIES} of {CANARIES} canaries could not be written: nothing can be proven."
    assert told in evidence.reasons


def test_a_surviving_byte_fails_the_scrub_and_is_named(window: MappedWindow) -> None:
    evidence = concluded(scrubbed(window, tamper=lambda window: window.fill(BLOCK + 7, 1, 1)))
    assert evidence.reasons == (f"1 blocks are not zero, the first at byte {BLOCK + 7}.",)


def test_the_records_of_all_methods_are_kept_in_order(window: MappedWindow) -> None:
    evidence = concluded(scrubbed(window, Resetting(), BarScrubber()))
    assert evidence.verdict == "passed"
    assert [record.name for record in evidence.methods] == ["resetting", "bar"]
    assert evidence.resets == (RESET, RESET, RESET)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ScrubFailed("no answer for 60 s"), "failing: no answer for 60 s"),
        (BusError("cannot be mapped"), "failing: cannot be mapped"),
        (ZeroDivisionError(), "failing: ZeroDivisionError"),
    ],
)
def test_a_scrubber_that_fails_is_recorded_and_the_rest_goes_on(
    window: MappedWindow, error: Exception, told: str
) -> None:
    evidence = concluded(scrubbed(window, Failing(error), BarScrubber()))
    assert (evidence.verdict, evidence.reasons) == ("failed", (told,))
    assert evidence.witness is not None
    assert evidence.witness.mismatches == 0


@pytest.mark.parametrize("error", [CardMissing("gone"), Wedged("hangs")])
def test_a_card_that_is_gone_or_wedged_ends_the_scrub(window: MappedWindow, error: Exception) -> None:
    with pytest.raises(type(error)):
        scrubbed(window, Failing(error))


@pytest.mark.parametrize("ids", ["1002:744c", "10de:2230", "8086:56a0"])
def test_an_unproven_method_never_suffices(window: MappedWindow, ids: str) -> None:
    evidence = concluded(scrubbed(window, card=a_card(ids=ids)))
    assert evidence.verdict == "failed"
    assert evidence.methods[0].proven is False
    assert f"The method 'bar' is not proven on {ids}: it never suffices alone." in evidence.reasons


def test_a_window_smaller_than_the_memory_does_not_reach_it_all(window: MappedWindow) -> None:
    work = scrubbed(window, card=a_card(size=2 * SIZE))
    assert concluded(work, required_reach_permille=500).verdict == "passed"
    evidence = concluded(work, required_reach_permille=501)
    assert evidence.methods[0].reached_bytes == SIZE
    assert evidence.reasons == (
        f"{SIZE} of {2 * SIZE} bytes were overwritten by a proven method; policy asks for 501 ‰.",
        f"{SIZE} of {2 * SIZE} bytes were read back; policy asks for all.",
    )


def test_more_reach_than_there_is_memory_is_not_believed(window: MappedWindow) -> None:
    class Boasting(BarScrubber):
        def run(self, place: Workplace) -> Outcome:
            return msgspec.structs.replace(super().run(place), reached_bytes=10 * SIZE)

    assert scrubbed(window, Boasting()).methods[0].reached_bytes == SIZE


@pytest.mark.parametrize("field", ["serial", "rom_sha256", "firmware", "modes", "subsystem"])
def test_a_changed_fingerprint_fails(window: MappedWindow, field: str) -> None:
    after = msgspec.structs.replace(IDENTITY, **{field: "changed"})
    evidence = concluded(scrubbed(window), after=after)
    assert evidence.reasons == (f"The card is not what it was: {field} changed.",)
    assert (evidence.fingerprint_before, evidence.fingerprint_after) == (IDENTITY, after)


def test_a_scrub_that_was_never_planted_fails(window: MappedWindow) -> None:
    evidence = concluded(scrub.verify(begun(a_card()), window, "full"))
    assert "The host did not look into the memory itself." in evidence.reasons


def test_the_journal_can_keep_a_scrub_between_steps(window: MappedWindow) -> None:
    work = scrubbed(window)
    assert msgspec.json.decode(msgspec.json.encode(work), type=Scrub) == work


def test_what_a_scrubber_tells_fits_into_a_message(window: MappedWindow) -> None:
    class Talkative(Lying):
        def run(self, place: Workplace) -> Outcome:
            facts = {f"{number} {'n' * 300}": "f" * 300 for number in range(99)}
            return Outcome(reached_bytes=0, pattern="p" * 300, facts=facts)

    evidence = concluded(scrubbed(window, Talkative(), Failing(ScrubFailed("e" * 5000))))
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=ScrubEvidence) == evidence


def test_a_resumed_scrub_plants_and_fills_again(window: MappedWindow) -> None:
    card = a_card()
    crashed = scrub.plant(begun(card), window, "first")
    crashed = scrub.fill(crashed, installed(Lying()), workplace(window, card))
    again = scrub.plant(crashed, window, "second")
    assert again.witness != crashed.witness
    assert (again.fills, again.methods) == (2, ())
    work = scrub.fill(again, installed(BarScrubber()), workplace(window, card))
    evidence = concluded(scrub.verify(work, window, "full"))
    assert (evidence.verdict, evidence.fills) == ("passed", 2)
