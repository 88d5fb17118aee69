"""What a host worker costs that has nothing to do, and one whose machine runs: processor time and memory.

    python -m benchmarks.idle [--quick] [--json]

In the demo: four simulated GPUs, a portal that it reports to. What the kernel accounts for the process is
read at both ends of a span.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from benchmarks.demo_stack import DemoStack, started_demo, wait_until  # noqa: E402 - also a plain script
from benchmarks.provision import APPROVER, BOOKING, FLAVORS, MEMBER, UP, _describe_machine  # noqa: E402

QUICK, FULL = 15, 120
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    options = _options()
    seconds = QUICK if options.quick else FULL
    load = [os.getloadavg()[0]]
    with started_demo() as demo:
        demo.wait_ready()
        worker = find_worker(demo.var)
        idle = watch(worker, seconds)
        run_a_machine(demo)
        busy = watch(worker, seconds)
    load.append(os.getloadavg()[0])
    figures = {
        "benchmark": "idle",
        "seconds": seconds,
        "machine": _describe_machine(load),
        "nothing to do": idle,
        "one machine runs": busy,
    }
    if not options.json:
        print(figures["machine"])
        for name in ("nothing to do", "one machine runs"):
            told = figures[name]
            assert isinstance(told, dict)
            print(f"{name:<20}" + "  ".join(f"{value:>8} {unit}" for unit, value in told.items()))
    print(json.dumps(figures))
    return 0


def find_worker(var: Path) -> int:
    """The process of the demo's host."""
    config = str(var / "host.toml").encode()
    for folder in Path("/proc").glob("[0-9]*"):
        words = (folder / "cmdline").read_bytes().split(b"\0")
        if config in words and b"run" in words:
            return int(folder.name)
    raise RuntimeError("The demo's host worker does not run.")


def run_a_machine(demo: DemoStack) -> None:
    lease_id = demo.call("leases/", MEMBER, {**BOOKING, "flavor": FLAVORS[0]})["id"]
    demo.call(f"leases/{lease_id}/approve/", APPROVER, {})
    wait_until(lambda: UP in demo.serial_log(lease_id), "the machine has booted")


def watch(pid: int, seconds: float) -> dict[str, float]:
    """CPU seconds an hour, and MiB of memory: all that it has mapped, and its own part of it."""
    before, began = _cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    spent = _cpu_seconds(pid) - before
    memory = _memory(pid)
    return {
        "CPU s/h": round(spent / (time.monotonic() - began) * 3600, 1),
        "MiB resident": round(memory["Rss"] / 1024, 1),
        "MiB proportional": round(memory["Pss"] / 1024, 1),
    }


def _cpu_seconds(pid: int) -> float:
    """utime and stime: fields 14 and 15 of proc(5), after a name that may hold spaces."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _memory(pid: int) -> dict[str, int]:
    """KiB by name."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} seconds each instead of {FULL}")
    parser.add_argument("--json", action="store_true", help="only the figures, as one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
