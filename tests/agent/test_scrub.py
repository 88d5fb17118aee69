"""Scrubs and their evidence: what passes, and every way not to."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.agent import scrub
from hosts.agent.bar import CHUNK, BarScrubber
from hosts.agent.bus import Card, MemoryWindow
from hosts.agent.memory import MappedWindow, mapped
from hosts.agent.scrub import BLOCK, Filled, Progress, Scrub, Scrubber
from hosts.agent.scrubbers import UntrustedScrubber, load_scrubbers
from hosts.protocol.messages import Fingerprint, ResetRecord, ScrubEvidence, ScrubPolicy

SIZE = 3 * BLOCK + 4096
START = datetime(2030, 1, 1, tzinfo=UTC)
IDENTITY = Fingerprint(vendor_device="1234:1111", serial="1", rom_sha256="a" * 64)
RESET = ResetRecord(method="bridge-reset", scope="bus", seconds=0.1, attempts=1)


def a_card(*, size: int = SIZE, ids: str = "1234:1111") -> Card:
    identity = msgspec.structs.replace(IDENTITY, vendor_device=ids)
    return Card("0000:01:00.0", ("0000:01:00.0",), 7, "GPU", size, 0, identity)


@contextmanager
def memory(directory: Path, size: int = SIZE, *, content: bytes = b"residue") -> Iterator[MappedWindow]:
    path = directory / "memory"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size)
    with mapped(path, size) as window:
        yield window


@pytest.fixture
def window(tmp_path: Path) -> Iterator[MappedWindow]:
    with memory(tmp_path) as window:
        yield window


class LyingScrubber:
    """Claims all and does nothing."""

    name = "lying"
    version = "1"

    def is_proven(self, card: Card) -> bool:
        return True

    def reach(self, window_size: int, card: Card) -> int:
        return card.memory_bytes

    def fill(self, window: MemoryWindow, progress: Progress) -> Filled:
        size = window.size
        return Filled(written_bytes=size, read_back_bytes=size, mismatches=0, pattern="trust me")


class LazyScrubber(LyingScrubber):
    """Zeroes only what an honest-looking spot check would look at: the first and the last block."""

    name = "lazy"

    def fill(self, window: MemoryWindow, progress: Progress) -> Filled:
        window.fill(0, BLOCK, 0)
        window.fill(window.size - BLOCK, BLOCK, 0)
        return super().fill(window, progress)


class ShortScrubber(BarScrubber):
    """Reaches half of the memory and says so."""

    def reach(self, window_size: int, card: Card) -> int:
        return window_size // 2


def nothing(done: int, total: int) -> None:
    """Progress that nobody watches."""


def begun(scrubber: Scrubber, card: Card) -> Scrub:
    before = card.fingerprint
    work = scrub.begin(card, scrubber, digest="d" * 64, simulated=True, before=before, now=START)
    return scrub.add_reset(work, RESET)


def scrubbed(
    window: MemoryWindow,
    scrubber: Scrubber | None = None,
    *,
    card: Card | None = None,
    full_up_to: int = scrub.FULL_READ_BYTES,
    tamper: Callable[[MemoryWindow], None] = lambda window: None,
) -> Scrub:
    """The whole course; `tamper` touches the memory after the fill."""
    scrubber, card, rng = scrubber or BarScrubber(), card or a_card(size=window.size), Random(1)
    work = scrub.plant(begun(scrubber, card), window, rng)
    work = scrub.fill(work, card, window, scrubber, nothing)
    tamper(window)
    return scrub.verify(work, window, rng, full_up_to=full_up_to)


def concluded(work: Scrub, *, after: Fingerprint | None = None, reach: int = 1000) -> ScrubEvidence:
    return scrub.conclude(
        work,
        policy=ScrubPolicy(scrubber=work.scrubber, required_reach_permille=reach),
        fingerprint_after=after or work.fingerprint_before,
        kernel="6.1.0",
        now=START + timedelta(seconds=9),
    )


def test_a_good_scrub_passes_with_its_figures(window: MappedWindow) -> None:
    evidence = concluded(scrubbed(window))
    assert (evidence.verdict, evidence.reasons) == ("passed", ())
    assert (evidence.coverage, evidence.memory_bytes) == ("full", SIZE)
    assert evidence.reached_bytes == evidence.written_bytes == evidence.read_back_bytes == SIZE
    assert (evidence.canaries_planted, evidence.canaries_found, evidence.mismatches) == (64, 0, 0)
    assert (evidence.fills, evidence.resets) == (1, (RESET,))
    assert (evidence.started_at, evidence.finished_at) == (START, START + timedelta(seconds=9))
    assert (evidence.proven, evidence.simulated, evidence.kernel) == (True, True, "6.1.0")
    assert evidence.scrubber_digest == "d" * 64


def test_the_bar_scrubber_writes_a_pattern_and_then_zeros(window: MappedWindow) -> None:
    seen: list[tuple[int, int]] = []
    written: list[tuple[int, int, int]] = []

    class Watched:
        size, read, first_mismatch = window.size, window.read, window.first_mismatch

        def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
            assert isinstance(pattern, int)
            written.append((offset, length, pattern))
            window.fill(offset, length, pattern)

    filled = BarScrubber().fill(Watched(), lambda done, total: seen.append((done, total)))
    assert SIZE < CHUNK
    assert written == [(0, SIZE, 0xA5), (0, SIZE, 0)]
    assert seen == [(SIZE, 2 * SIZE), (2 * SIZE, 2 * SIZE)]
    assert (filled.written_bytes, filled.read_back_bytes, filled.mismatches) == (SIZE, 2 * SIZE, 0)


def test_the_bar_scrubber_notices_memory_that_takes_no_writes(window: MappedWindow) -> None:
    class Stuck:
        size, read, first_mismatch = window.size, window.read, window.first_mismatch

        def fill(self, offset: int, length: int, pattern: int | bytes) -> None:
            """Nothing is taken."""

    work = scrubbed(Stuck())
    evidence = concluded(work)
    assert work.canaries_refused == 64
    assert evidence.verdict == "failed"
    assert "64 of 64 canaries could not be written: nothing can be proven." in evidence.reasons
    assert any("itself read 2 blocks" in reason for reason in evidence.reasons)


@pytest.mark.parametrize("full_up_to", [scrub.FULL_READ_BYTES, 0], ids=["full", "sampled"])
@pytest.mark.parametrize("scrubber", [LyingScrubber(), LazyScrubber()], ids=lambda scrubber: scrubber.name)
def test_a_lying_scrubber_is_caught_by_the_canaries(
    window: MappedWindow, scrubber: Scrubber, full_up_to: int
) -> None:
    evidence = concluded(scrubbed(window, scrubber, full_up_to=full_up_to))
    assert evidence.verdict == "failed"
    assert evidence.canaries_found > 0
    assert f"{evidence.canaries_found} of 64 canaries survived the scrub." in evidence.reasons


def test_canaries_catch_what_samples_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lazy scrubber zeroes both ends, and the samples happen to fall there; its canaries do not."""
    monkeypatch.setattr(scrub, "SAMPLED_BYTES", 0)
    with memory(tmp_path, 64 * BLOCK) as window:
        work = scrubbed(window, LazyScrubber(), full_up_to=0)
        without = scrub.verify(msgspec.structs.replace(work, canaries=()), window, Random(1), full_up_to=0)
    assert without.verified is not None
    assert without.verified.mismatches == 0
    assert concluded(work).canaries_found > 50


def test_a_canary_that_is_merely_damaged_is_a_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no longer found as planted, and no sample falls there: its place is read for its own sake."""
    monkeypatch.setattr(scrub, "SAMPLED_BYTES", 0)
    with memory(tmp_path, 64 * BLOCK) as window:
        work = scrubbed(window, full_up_to=0)
        inner = next(c for c in work.canaries if BLOCK <= c.offset < 63 * BLOCK)
        window.fill(inner.offset + 5, 1, 0xFF)
        evidence = concluded(scrub.verify(work, window, Random(1), full_up_to=0))
    assert (evidence.verdict, evidence.canaries_found, evidence.mismatches) == ("failed", 0, 1)


def test_a_large_window_is_sampled_and_the_evidence_says_so(tmp_path: Path) -> None:
    with memory(tmp_path, 200 * BLOCK) as window:
        evidence = concluded(scrubbed(window, full_up_to=100 * BLOCK))
    assert (evidence.verdict, evidence.coverage) == ("passed", "sampled")
    assert 64 * BLOCK <= evidence.read_back_bytes < 70 * BLOCK


def test_canaries_are_planted_everywhere_and_differ(window: MappedWindow) -> None:
    work = scrub.plant(begun(BarScrubber(), a_card()), window, Random(7))
    offsets = [canary.offset for canary in work.canaries]
    assert len(set(offsets)) == len({canary.value for canary in work.canaries}) == 64
    assert min(offsets) < SIZE // 8
    assert max(offsets) > SIZE * 7 // 8
    assert scrub.hunt(window, work.canaries) == 64


@settings(max_examples=60, deadline=None)
@given(offset=st.integers(0, SIZE - 1), byte=st.integers(1, 255))
def test_any_surviving_byte_fails_the_scrub(
    tmp_path_factory: pytest.TempPathFactory, offset: int, byte: int
) -> None:
    with memory(tmp_path_factory.mktemp("memory")) as window:
        work = scrubbed(window, tamper=lambda window: window.fill(offset, 1, byte))
    evidence = concluded(work)
    assert evidence.verdict == "failed"
    assert evidence.mismatches == 1
    assert evidence.reasons == (f"1 blocks are not zero, the first at byte {offset}.",)


@given(offset=st.integers(0, 5000), length=st.integers(0, 5000), unit=st.binary(min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_a_window_writes_what_it_is_told_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, offset: int, length: int, unit: bytes
) -> None:
    with memory(tmp_path_factory.mktemp("memory"), 10_000, content=b"") as window:
        window.fill(offset, length, unit)
        assert window.read(0, window.size) == b"\0" * offset + (unit * length)[:length] + b"\0" * (
            10_000 - offset - length
        )


@pytest.mark.parametrize(("offset", "length"), [(-1, 4), (0, SIZE + 1), (SIZE, 1), (4, -1)])
def test_a_window_has_ends(window: MappedWindow, offset: int, length: int) -> None:
    for act in (
        lambda: window.read(offset, length),
        lambda: window.fill(offset, length, 0),
        lambda: window.first_mismatch(offset, length, 0),
    ):
        with pytest.raises(ValueError, match="not inside"):
            act()


def test_reach_below_policy_fails(window: MappedWindow) -> None:
    work = scrubbed(window, ShortScrubber())
    assert concluded(work, reach=500).verdict == "passed"
    evidence = concluded(work, reach=501)
    assert evidence.verdict == "failed"
    assert evidence.reasons == (f"The scrubber reaches {SIZE // 2} of {SIZE} bytes; policy asks for 501 ‰.",)


def test_a_window_smaller_than_the_memory_does_not_reach_it_all(window: MappedWindow) -> None:
    evidence = concluded(scrubbed(window, card=a_card(size=2 * SIZE)))
    assert evidence.verdict == "failed"
    assert evidence.reached_bytes == SIZE


@pytest.mark.parametrize(("ids", "reached"), [("1002:744c", SIZE), ("10de:2230", 0)])
def test_an_unproven_method_never_suffices(window: MappedWindow, ids: str, reached: int) -> None:
    evidence = concluded(scrubbed(window, card=a_card(ids=ids)), reach=0)
    assert (evidence.verdict, evidence.proven, evidence.reached_bytes) == ("failed", False, reached)
    assert f"The scrubber 'bar' is not proven on {ids}: it never suffices." in evidence.reasons


@pytest.mark.parametrize("field", ["serial", "rom_sha256", "firmware", "modes", "subsystem"])
def test_a_changed_fingerprint_fails(window: MappedWindow, field: str) -> None:
    after = msgspec.structs.replace(IDENTITY, **{field: "changed"})
    evidence = concluded(scrubbed(window), after=after)
    assert evidence.verdict == "failed"
    assert evidence.reasons == (f"The card is not what it was: {field} changed.",)
    assert (evidence.fingerprint_before, evidence.fingerprint_after) == (IDENTITY, after)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ({"resets": ()}, "The card was not reset."),
        ({"filled": None}, "The memory was not filled."),
        ({"verified": None}, "The memory was not read back."),
        ({"canaries": ()}, "0 of 0 canaries could not be written: nothing can be proven."),
        ({"memory_bytes": 0}, "The size of the card's memory is not known."),
    ],
)
def test_what_was_not_done_fails(window: MappedWindow, missing: dict[str, object], reason: str) -> None:
    evidence = concluded(msgspec.structs.replace(scrubbed(window), **missing))
    assert evidence.verdict == "failed"
    assert reason in evidence.reasons


def test_a_fill_that_wrote_too_little_fails(window: MappedWindow) -> None:
    work = scrubbed(window)
    assert work.filled is not None
    short = msgspec.structs.replace(work.filled, written_bytes=SIZE - 1)
    evidence = concluded(msgspec.structs.replace(work, filled=short))
    assert evidence.reasons == (f"Only {SIZE - 1} of {SIZE} bytes were written.",)


def test_another_scrubber_than_policy_asks_for_fails(window: MappedWindow) -> None:
    evidence = scrub.conclude(
        scrubbed(window),
        policy=ScrubPolicy(scrubber="vendor"),
        fingerprint_after=IDENTITY,
        kernel="",
        now=START,
    )
    assert evidence.reasons == ("Policy asks for the scrubber 'vendor'; 'bar' was used.",)


def test_the_journal_can_keep_a_scrub_between_steps(window: MappedWindow) -> None:
    work = scrubbed(window)
    assert msgspec.json.decode(msgspec.json.encode(work), type=Scrub) == work


def test_a_resumed_scrub_plants_and_fills_again(window: MappedWindow) -> None:
    card, scrubber, rng = a_card(), BarScrubber(), Random(3)
    crashed = scrub.plant(begun(scrubber, card), window, rng)
    window.fill(0, SIZE // 2, 0xA5)
    again = scrub.plant(crashed, window, rng)
    assert again.canaries != crashed.canaries
    assert (again.fills, again.filled, again.verified) == (2, None, None)
    work = scrub.verify(scrub.fill(again, card, window, scrubber, nothing), window, rng)
    evidence = concluded(work)
    assert (evidence.verdict, evidence.fills) == ("passed", 2)


PLUGIN = '''"""A plug-in."""
from dataclasses import dataclass

@dataclass
class Scrubber:
    name: str = "vendor"
    version: str = "7"
    def is_proven(self, card): return True
    def reach(self, window_size, card): return window_size
    def fill(self, window, progress): raise NotImplementedError
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "vendor_scrub_plugin.py"
    path.write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("vendor_scrub_plugin", None)


def allow(plugin: Path, *, name: str = "vendor", kind: str = "Scrubber", digest: str = "") -> Path:
    digest = digest or hashlib.sha256(plugin.read_bytes()).hexdigest()
    path = plugin.with_name("scrubbers.toml")
    path.write_text(f'[scrubbers.{name}]\nobject = "{plugin.stem}:{kind}"\nsha256 = "{digest}"\n')
    path.chmod(0o644)
    return path


def test_without_a_list_there_is_the_built_in_scrubber() -> None:
    assert list(load_scrubbers()) == ["bar"]
    assert len(load_scrubbers()["bar"].digest) == 64


def test_a_listed_plugin_is_loaded_with_its_digest(plugin: Path) -> None:
    installed = load_scrubbers(allow(plugin))["vendor"]
    assert (installed.scrubber.name, installed.scrubber.version) == ("vendor", "7")
    assert installed.digest == hashlib.sha256(PLUGIN.encode()).hexdigest()


def test_a_changed_plugin_is_not_run(plugin: Path) -> None:
    path = allow(plugin)
    plugin.write_text(PLUGIN + "raise SystemExit\n")
    with pytest.raises(UntrustedScrubber, match="does not have the digest"):
        load_scrubbers(path)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_list_that_others_may_write_is_refused(plugin: Path, mode: int) -> None:
    path = allow(plugin)
    path.chmod(mode)
    with pytest.raises(UntrustedScrubber, match="writable by root alone"):
        load_scrubbers(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_list_that_is_not_roots_is_refused(plugin: Path) -> None:
    path = allow(plugin)
    os.chown(path, 65534, 65534)
    with pytest.raises(UntrustedScrubber, match="owned by root"):
        load_scrubbers(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "bar"}, "cannot be replaced"),
        ({"name": "other"}, "calls itself 'vendor'"),
        ({"kind": "Absent"}, "is not a class"),
        ({"digest": "0" * 64}, "does not have the digest"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(plugin: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(UntrustedScrubber, match=words):
        load_scrubbers(allow(plugin, **change))


@pytest.mark.parametrize(
    "text",
    ["scrubbers = 1", "not toml", '[scrubbers.a]\nobject = "a:B"', '[scrubbers.a]\nobject = 1\nsha256=""'],
)
def test_a_malformed_list_is_refused(plugin: Path, text: str) -> None:
    path = allow(plugin)
    path.write_text(text)
    with pytest.raises(UntrustedScrubber, match="is not a list of scrubbers"):
        load_scrubbers(path)


def test_an_absent_list_or_module_is_refused(plugin: Path) -> None:
    with pytest.raises(UntrustedScrubber, match="is not a list of scrubbers"):
        load_scrubbers(plugin.with_name("absent.toml"))
    path = allow(plugin)
    path.write_text(path.read_text().replace(plugin.stem, "no_such_module"))
    with pytest.raises(UntrustedScrubber, match="no module no_such_module"):
        load_scrubbers(path)
