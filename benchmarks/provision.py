"""From “approved” to libvirt's start call, and from “running” to the page, beside a bare define and start.

    python -m benchmarks.provision [--quick] [--json]

Leases real machines in the demo. One lease before the others warms both sides up: libvirt probes QEMU once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from lxml import etree
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from benchmarks.demo_stack import DemoStack, started_demo, wait_until  # noqa: E402 - also a plain script
from hosts.agent.disks import create_scratch  # noqa: E402
from hosts.agent.hypervisor import Hypervisor  # noqa: E402

QUICK, FULL = 1, 10
# A tenant whose every request has to be approved.
MEMBER, APPROVER, OPERATOR = ("research", "member"), ("research", "approver"), ("", "operator")
BOOKING = {"image": "tiny", "duration_seconds": 3600, "purpose": "benchmark"}
FLAVORS = ("train", "studio")
DISK_GIB = 1
# A guest that has booted obeys the power button, and leaves the processor alone.
UP = "leasehold tenant ready"
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync")  # fmt: skip
# Notes the time of the first frame in which the page shows the machine running.
WATCH_PAGE = """
new MutationObserver((_, observer) => {
    if (document.querySelector("[data-state=active][data-machine=running]")) {
        observer.disconnect();
        requestAnimationFrame(() => { document.body.dataset.shownAt = Date.now() / 1000; });
    }
}).observe(document.body, { childList: true, subtree: true, attributes: true });
"""


@dataclass(frozen=True)
class Bare:
    """One define and one start without Leasehold, in seconds."""

    define: float
    start: float


@dataclass(frozen=True)
class Round:
    """One lease and the bare machine after it, in seconds."""

    approved_to_first_step: float
    approved_to_start_call: float
    define: float
    start: float
    define_and_start: float
    running_to_page: float
    bare: Bare


def main() -> int:
    options = _options()
    count = QUICK if options.quick else FULL
    load = [os.getloadavg()[0]]
    with started_demo() as demo, _chromium() as browser, _bare_hypervisor() as hypervisor:
        demo.wait_ready()
        bench = Bench(demo, _signed_in(browser, demo), hypervisor, give_back=not options.quick)
        _say(options, "warming up")
        first = bench.measure(FLAVORS[0], warming_up=True)
        rounds = []
        for number in range(1, count + 1):
            _say(options, f"lease {number} of {count}")
            rounds.append(bench.measure(FLAVORS[number % len(FLAVORS)]))
        load.append(os.getloadavg()[0])
    figures = summarise(first, rounds, quick=options.quick, load=load)
    if not options.json:
        print_table(figures)
    print(json.dumps(figures))
    return 0


@dataclass(frozen=True)
class Bench:
    """What a round needs. `give_back`: leases are ended, and every round finds the same, clean host."""

    demo: DemoStack
    page: Page
    hypervisor: Hypervisor
    give_back: bool

    def measure(self, flavor: str, *, warming_up: bool = False) -> Round:
        """Lease a machine and look at it; when it has booted, run the same one without Leasehold."""
        lease_id = self.demo.call("leases/", MEMBER, {**BOOKING, "flavor": flavor})["id"]
        shown_at = self._approve_and_watch(lease_id)
        lease = self.demo.call(f"leases/{lease_id}/", MEMBER)
        definition = self.demo.kept_definition(lease["machine_name"])
        if not warming_up:
            self._wait_booted(lease_id)
        if self.give_back:
            self._end(lease_id)
        bare = run_bare(self.hypervisor, definition)
        if not self.give_back:
            self._wait_booted(lease_id)
        return _read(lease, shown_at, bare)

    def _approve_and_watch(self, lease_id: str) -> float:
        """When the page showed the machine running; nothing here reloads it."""
        self.page.goto(f"{self.demo.url}/workstations/{lease_id}/")
        self.page.evaluate(WATCH_PAGE)
        self.demo.call(f"leases/{lease_id}/approve/", APPROVER, {})
        body = self.page.locator("body[data-shown-at]")
        body.wait_for(timeout=120_000)
        return float(body.get_attribute("data-shown-at") or 0)

    def _wait_booted(self, lease_id: str) -> None:
        wait_until(lambda: UP in self.demo.serial_log(lease_id), "the machine has booted")

    def _end(self, lease_id: str) -> None:
        self.demo.call(f"leases/{lease_id}/end/", MEMBER, {})
        wait_until(
            lambda: {gpu["state"] for gpu in self.demo.call("gpus/", OPERATOR)["results"]} == {"clean"},
            "every GPU is clean again",
        )


def _read(lease: dict[str, Any], shown_at: float, bare: Bare) -> Round:
    """The figures of a lease as the API tells them; the clock is one and the same everywhere here."""
    steps = {step["name"]: step for step in lease["steps"] if step["plan"] == "provision"}
    approved, define, start = _seconds(lease["decided_at"]), steps["define"], steps["start"]
    return Round(
        approved_to_first_step=_seconds(steps["identify"]["started_at"]) - approved,
        approved_to_start_call=_seconds(start["started_at"]) - approved,
        define=_took(define),
        start=_took(start),
        define_and_start=_seconds(start["finished_at"]) - _seconds(define["started_at"]),
        running_to_page=shown_at - _seconds(lease["active_at"]),
        bare=bare,
    )


def run_bare(hypervisor: Hypervisor, definition: str) -> Bare:
    """Define and start the same machine, on a disk of its own, and remove it again."""
    with tempfile.TemporaryDirectory(prefix="bench-bare-") as folder:
        name, xml = _renamed(definition, Path(folder))
        create_scratch(Path(folder) / "disk.qcow2", size_gib=DISK_GIB, backing=None, encrypted=False)
        began = time.perf_counter()
        hypervisor.define(xml)
        defined = time.perf_counter()
        hypervisor.start(name)
        started = time.perf_counter()
        hypervisor.destroy(name)
        hypervisor.undefine(name)
    return Bare(define=defined - began, start=started - defined)


def summarise(first: Round, rounds: list[Round], *, quick: bool, load: list[float]) -> dict[str, Any]:
    ours = [one.define_and_start for one in rounds]
    bare = [one.bare.define + one.bare.start for one in rounds]
    return {
        "benchmark": "provision",
        "quick": quick,
        "leases": len(rounds),
        "machine": _describe_machine(load),
        "seconds": {
            "approved to the host's first step": _spread([one.approved_to_first_step for one in rounds]),
            "approved to libvirt's start call": _spread([one.approved_to_start_call for one in rounds]),
            "running to shown on the page": _spread([one.running_to_page for one in rounds]),
            "define and start, as provision's steps": _spread(ours),
            "define and start, bare": _spread(bare),
            "define, as a step": _spread([one.define for one in rounds]),
            "define, bare": _spread([one.bare.define for one in rounds]),
            "start, as a step": _spread([one.start for one in rounds]),
            "start, bare": _spread([one.bare.start for one in rounds]),
            "first define, as a step": _spread([first.define]),
            "first define, bare": _spread([first.bare.define]),
        },
        "ratio of provision's define and start to bare": round(median(ours) / median(bare), 2),
    }


def print_table(figures: dict[str, Any]) -> None:
    print(f"{figures['leases']} leases; {figures['machine']}")
    print(f"{'seconds':<42}{'median':>8}{'least':>8}{'most':>8}")
    for name, spread in figures["seconds"].items():
        print(f"{name:<42}{spread['median']:>8.3f}{spread['least']:>8.3f}{spread['most']:>8.3f}")


@contextmanager
def _chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(CHROMIUM))
        yield browser
        browser.close()


def _signed_in(browser: Browser, demo: DemoStack) -> Page:
    """A page of the person who asks for the machines."""
    account = demo.accounts[MEMBER]
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{demo.url}/sign-in/")
    page.get_by_label("Name").fill(account["username"])
    page.get_by_label("Password").fill(account["password"])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{demo.url}/")
    return page


@contextmanager
def _bare_hypervisor() -> Iterator[Hypervisor]:
    """libvirt's embedded driver once more, in this process and without anything above it."""
    with tempfile.TemporaryDirectory(prefix="bench-libvirt-", dir="/tmp") as root:
        hypervisor = Hypervisor.open(f"qemu:///embed?root={root}")
        try:
            yield hypervisor
        finally:
            hypervisor.close()


def _renamed(definition: str, folder: Path) -> tuple[str, str]:
    """Another name and other files, and no word of a lease: a host worker removes what has none here."""
    root = etree.fromstring(definition.encode())
    name = f"bare-{uuid4().hex[:8]}"
    for tag, text in (("name", name), ("uuid", str(uuid4()))):
        element = root.find(tag)
        assert element is not None
        element.text = text
    for element in root.findall("metadata"):
        root.remove(element)
    for element in root.iterfind("devices/disk/source"):
        element.set("file", str(folder / "disk.qcow2"))
    for element in (*root.iterfind("devices/serial/source"), *root.iterfind("devices/console/source")):
        element.set("path", str(folder / "serial.log"))
    return name, etree.tostring(root, encoding="unicode")


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _took(step: dict[str, Any]) -> float:
    return _seconds(step["finished_at"]) - _seconds(step["started_at"])


def _spread(values: list[float]) -> dict[str, float]:
    figures = {"median": median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 4) for name, value in figures.items()}


def _describe_machine(load: list[float]) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} × {cpu}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, QEMU in plain emulation, "
        f"load average {load[0]:.1f} before and {load[-1]:.1f} after"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK} lease, which is kept, instead of {FULL} given back"
    )
    parser.add_argument("--json", action="store_true", help="only the figures, as one JSON object")
    return parser.parse_args()


def _say(options: argparse.Namespace, words: str) -> None:
    if not options.json:
        print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main())
