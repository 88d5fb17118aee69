"""A scrub through the memory BAR, beside what the C library needs to write and read the same mapping once.

    python -m benchmarks.scrub [--quick] [--json] [--gib N]

A file in memory stands in for the BAR, in huge pages where this process may mount such a file system: a BAR
has no page faults. The scrub is measured twice: in this process, over the mapping that C is given too; and as
a host does it, where the bus maps the BAR for each step in a child process, beside a C function that maps,
writes, reads and unmaps it once.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import cast

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from hosts.agent import scrub, witness  # noqa: E402 - also a plain script
from hosts.agent.bar import BarScrubber  # noqa: E402
from hosts.agent.bus import Card, MemoryWindow, PciBus  # noqa: E402
from hosts.agent.memory import MappedWindow, mapped  # noqa: E402
from hosts.agent.pci import DEVICES  # noqa: E402
from hosts.agent.scrubber import Workplace  # noqa: E402
from hosts.agent.scrubbers import load_scrubbers  # noqa: E402
from hosts.agent.sysfs import SysfsBus  # noqa: E402
from hosts.protocol.messages import Fingerprint, ResetRecord, ScrubEvidence, ScrubPolicy, Witness  # noqa: E402

MIB, GIB = 1 << 20, 1 << 30
QUICK, FULL = 3, 9
# The best that C does: what is compared with stays in the processor's cache.
REFERENCE = """
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static unsigned char zeros[256 * 1024];
void write_all(void *memory, size_t size) { memset(memory, 0, size); }
int read_all(const unsigned char *memory, size_t size)
{
    for (size_t at = 0; at < size; at += sizeof zeros) {
        size_t left = size - at;
        if (memcmp(memory + at, zeros, left < sizeof zeros ? left : sizeof zeros)) return 1;
    }
    return 0;
}
int map_write_and_read(const char *path, size_t size)
{
    int file = open(path, O_RDWR);
    void *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) return 2;
    write_all(memory, size);
    int wrong = read_all(memory, size);
    munmap(memory, size);
    close(file);
    return wrong;
}
"""
CARD = Card("0000:01:00.0", ("0000:01:00.0",), 1, "a file", 0, 0, Fingerprint(vendor_device="1234:1111"))
RESET = ResetRecord(method="none", scope="none", seconds=0.0, attempts=1)
BAR = load_scrubbers()["bar"]


def main() -> int:
    options = _options()
    size = options.gib * GIB
    load = [os.getloadavg()[0]]
    with _memory_folder(size) as (folder, pages), _reference() as c_library:
        file = _make_card(folder, size)
        bus, rounds = SysfsBus(folder), QUICK if options.quick else FULL
        with mapped(file, size) as window:
            near = [_round(window, c_library, size) for _ in range(rounds + 1)][1:]  # the first one warms up
        far = [_far_round(bus, file, c_library, size) for _ in range(rounds + 1)][1:]
    load.append(os.getloadavg()[0])
    figures = summarise(near, far, size=size, pages=pages, load=load)
    if not options.json:
        print_table(figures)
    print(json.dumps(figures))
    return 0


class Round(dict[str, float]):
    """Seconds of one round, by what took them."""


def _round(window: MappedWindow, c_library: ctypes.CDLL, size: int) -> Round:
    """Each side in turn, so that what else the machine does falls on both."""
    address = ctypes.c_void_p(window._address)  # what a scrubber is not told
    return Round(
        c_write=_timed(lambda: c_library.write_all(address, ctypes.c_size_t(size))),
        c_read=_timed(lambda: c_library.read_all(address, ctypes.c_size_t(size))),
        write=_timed(lambda: BarScrubber().run(_place(window))),
        read=_timed(lambda: witness.look(_planted_before(size), window, "full")),
        scrub=_timed(lambda: _scrub(lambda: nullcontext(window), size)),
    )


def _far_round(bus: SysfsBus, file: Path, c_library: ctypes.CDLL, size: int) -> Round:
    card, path = _card_of(size), ctypes.c_char_p(str(file).encode())
    begun = _processor_seconds()
    c_whole = _timed(lambda: c_library.map_write_and_read(path, ctypes.c_size_t(size)))
    between = _processor_seconds()
    far_scrub = _timed(lambda: _scrub(lambda: bus.memory(card), size))
    return Round(
        c_whole=c_whole,
        far_scrub=far_scrub,
        c_processor=between - begun,
        far_processor=_processor_seconds() - between,
    )


def _processor_seconds() -> float:
    """What this process and its children have used."""
    children = [
        pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()
    ]
    used = (int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in children)
    return time.process_time() + sum(used) / 1e9


def summarise(
    near: list[Round], far: list[Round], *, size: int, pages: str, load: list[float]
) -> dict[str, object]:
    seconds = {
        name: round(median(each[name] for each in side), 4) for side in (near, far) for name in side[0]
    }
    speeds = [(each["c_write"] + each["c_read"]) / (each["write"] + each["read"]) for each in near]
    times = [each["scrub"] / (each["c_write"] + each["c_read"]) for each in near]
    return {
        "benchmark": "scrub",
        "bytes": size,
        "rounds": len(near),
        "seconds": seconds,
        "bytes_per_second_over_c": round(median(speeds), 3),
        "scrub_time_over_write_and_read": round(median(times), 3),
        "far_scrub_time_over_map_write_and_read": _ratio(far, "far_scrub", "c_whole"),
        "far_processor_time_over_map_write_and_read": _ratio(far, "far_processor", "c_processor"),
        "pages": pages,
        "machine": _describe_machine(load),
    }


def _ratio(rounds: list[Round], ours: str, theirs: str) -> float:
    return round(median(each[ours] / each[theirs] for each in rounds), 3)


def print_table(figures: dict[str, object]) -> None:
    seconds = cast(dict[str, float], figures["seconds"])
    size = cast(int, figures["bytes"])
    print(figures["machine"])
    rows = {
        "C: memset": "c_write",
        "C: memcmp": "c_read",
        "BAR scrubber: write": "write",
        "host: read back": "read",
        "whole scrub, canaries included": "scrub",
        "C: map, memset, memcmp, unmap": "c_whole",
        "whole scrub, mapped in children": "far_scrub",
    }
    print(f"{'':<36}{'seconds':>9}{'GB/s':>8}")
    for words, name in rows.items():
        passes = 2 if name in ("scrub", "c_whole", "far_scrub") else 1
        print(f"{words:<36}{seconds[name]:>9.3f}{passes * size / seconds[name] / 1e9:>8.1f}")
    print(f"bytes per second over C          {figures['bytes_per_second_over_c']:>9}  (target ≥ 0.9)")
    print(f"scrub time over write and read   {figures['scrub_time_over_write_and_read']:>9}  (target ≤ 1.1)")
    far = figures["far_scrub_time_over_map_write_and_read"]
    processor = figures["far_processor_time_over_map_write_and_read"]
    print(f"the same, mapped in children     {far:>9}  (target ≤ 1.1)")
    print(f"the same in processor time       {processor:>9}")
    print(f"The memory is in {figures['pages']} pages.")


def _scrub(opened: Callable[[], AbstractContextManager[MemoryWindow]], size: int) -> ScrubEvidence:
    """All of a release's scrub but the resets."""
    card, now = _card_of(size), datetime.now(UTC)
    work = scrub.begin(card, simulated=True, before=card.fingerprint, kernel="bench", now=now)
    work = scrub.add_reset(work, RESET)
    with opened() as window:
        work = scrub.plant(work, window, os.urandom(16).hex())
    with opened() as window:
        work = scrub.fill(work, BAR, _place(window))
    with opened() as window:
        work = scrub.verify(work, window, "full")
    evidence = scrub.conclude(
        work, policy=ScrubPolicy(), fingerprint_after=card.fingerprint, kernel="", now=datetime.now(UTC)
    )
    assert evidence.verdict == "passed", evidence.reasons
    return evidence


def _card_of(size: int) -> Card:
    return replace(CARD, memory_bytes=size)


class _OneWindow:
    """As much of a PciBus as the scrubber asks for."""

    def __init__(self, window: MemoryWindow) -> None:
        self._window = window

    @contextmanager
    def memory(self, card: Card) -> Iterator[MemoryWindow]:
        yield self._window


def _place(window: MemoryWindow) -> Workplace:
    bus = cast(PciBus, _OneWindow(window))
    return Workplace(bus=bus, card=CARD, progress=lambda done, total: None, climb=lambda: RESET)


def _planted_before(size: int) -> Witness:
    """A witness whose canaries have gone."""
    return Witness(window="bar", window_bytes=size, proven=True, seed="5eed", canaries_planted=0)


@contextmanager
def _memory_folder(size: int) -> Iterator[tuple[Path, str]]:
    """Where files are in memory, and in what kind of pages."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="leasehold-scrub-") as folder:
        options = f"huge=always,size={size + 64 * MIB}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        is_mounted = not subprocess.run(mount, check=False, capture_output=True).returncode
        try:
            yield Path(folder), "huge" if is_mounted else "small"
        finally:
            if is_mounted:
                subprocess.run(["umount", folder], check=True)


def _make_card(root: Path, size: int) -> Path:
    """As much of a card's files as the bus looks at; its BAR."""
    device = root / DEVICES / CARD.address
    device.mkdir(parents=True)
    vendor, identity = CARD.fingerprint.vendor_device.split(":")
    flags = 0x0014220C  # prefetchable memory
    rows = [f"{0:#x} {size - 1:#x} {flags:#x}"] + ["0x0 0x0 0x0"] * 5
    texts = {
        "vendor": f"0x{vendor}",
        "device": f"0x{identity}",
        "class": "0x038000",
        "resource": "\n".join(rows),
    }
    for name, text in texts.items():
        (device / name).write_text(text)
    (device / "config").write_bytes(bytes(64))
    with (device / "resource0").open("wb") as bar:
        bar.truncate(size)
    return device / "resource0"


@contextmanager
def _reference() -> Iterator[ctypes.CDLL]:
    """The other side, compiled with optimisation."""
    with tempfile.TemporaryDirectory(prefix="leasehold-scrub-") as folder:
        source, library = Path(folder) / "reference.c", Path(folder) / "reference.so"
        source.write_text(REFERENCE)
        command = ["gcc", "-O2", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        yield ctypes.CDLL(str(library))


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _describe_machine(load: list[float]) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return (
        f"{os.cpu_count()} × {cpu}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"load average {load[0]:.1f} before and {load[-1]:.1f} after"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} rounds instead of {FULL}")
    parser.add_argument("--json", action="store_true", help="only the figures, as one JSON object")
    parser.add_argument("--gib", type=int, default=1, help="how much memory; default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
