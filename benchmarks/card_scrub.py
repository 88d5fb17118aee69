"""The scrub machine's CUDA program on a real card, beside the card's own memset of the same memory.

    python -m benchmarks.card_scrub [--quick] [--json]

It needs an NVIDIA card that nobody uses, its driver and nvcc. Each round sets the memory with cudaMemset and
then scrubs it, in two processes. Before them a secret is left in the card's memory and looked for, with and
without a scrub between; after them a program is run whose memory does not keep what is written. Only Python's
own library is needed beside.
"""

from __future__ import annotations

import argparse
import json
import platform
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from appliance.build import COMPILERS, PROGRAMS, compile_program  # noqa: E402 - also a plain script

QUICK, FULL = 2, 7
SETS = 5
GIB = 1 << 30
PHASES = ("fill", "read", "zero", "check")
SPOIL = """#define SPOIL(chunk, seed) \\
    write_pattern<<<BLOCKS, THREADS>>>((chunk)->words, (chunk)->size / 8, seed + 1, (chunk)->offset / 8)
"""


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        found = _measure(Path(scratch), QUICK if options.quick else FULL)
    print(json.dumps(found, indent=None if options.json else 1))
    return 0


def _measure(scratch: Path, rounds: int) -> dict[str, Any]:
    memory = _compiled_memory(scratch)
    scrub = compile_program("cuda", _folder(scratch, "good"))
    (scratch / "spoil.h").write_text(SPOIL)
    spoilt = compile_program("cuda", _folder(scratch, "spoilt"), "-include", str(scratch / "spoil.h"))
    residue = _residue(memory, scrub)
    pairs = [(_said(memory, "memset", str(SETS))[-1], _scrub(scrub)) for _ in range(rounds)]
    bare = median(median(one["seconds"]) for one, _ in pairs)
    spoils = _said(spoilt, secrets.token_hex(16))[-1]["result"]
    return {
        "machine": f"Linux {platform.release()}, {_card()}",
        **_reach([result for _, (result, _) in pairs]),
        "memset_gib_per_s": round(pairs[0][0]["reached"] / bare / GIB),
        "rate_over_memset": _ratios(pairs),
        "seconds": {
            "program": round(median(took for _, (_, took) in pairs), 2),
            "phases": {name: median(one["seconds"][name] for _, (one, _) in pairs) for name in PHASES},
        },
        "secret": residue,
        "spoilt": {name: spoils[name] for name in ("mismatches", "first_mismatch", "reached_bytes")},
    }


def _reach(results: list[dict[str, Any]]) -> dict[str, Any]:
    least = min(results, key=lambda one: one["reached_bytes"])
    return {
        "reached_bytes": least["reached_bytes"],
        "reached_of_what_cuda_has": round(least["reached_bytes"] / least["total_bytes"], 4),
        "reached_of_what_the_card_has": round(least["reached_bytes"] / _card_bytes(), 4),
        "mismatches": sum(one["mismatches"] for one in results),
    }


def _ratios(pairs: list[tuple[dict[str, Any], tuple[dict[str, Any], float]]]) -> dict[str, float]:
    """Bytes per second over those of the memset of the same round: of each phase, and of all four."""
    ratios: dict[str, list[float]] = {name: [] for name in (*PHASES, "whole")}
    for bare, (result, _) in pairs:
        rate = bare["reached"] / median(bare["seconds"])
        seconds = {**result["seconds"], "whole": sum(result["seconds"].values()) / len(PHASES)}
        for name, took in seconds.items():
            ratios[name].append(result["reached_bytes"] / took / rate)
    return {name: round(median(values), 3) for name, values in ratios.items()}


def _residue(memory: Path, scrub: Path) -> dict[str, Any]:
    """How much of a secret that one process left another finds; eight bytes at a time."""
    word = secrets.token_hex(8)
    found = {}
    for name, between in (("without a scrub", False), ("after a scrub", True)):
        _said(memory, "leave", word)
        if between:
            _scrub(scrub)
        seen = _said(memory, "find", word)[-1]
        found[name] = {"found": seen["found"], "not_zero": seen["not_zero"], "of_words": seen["reached"] // 8}
    return found


def _scrub(program: Path) -> tuple[dict[str, Any], float]:
    """What it says at its end, and the seconds of the whole process."""
    began = time.perf_counter()
    result = _said(program, secrets.token_hex(16))[-1]["result"]
    return result, time.perf_counter() - began


def _said(program: Path, *words: str) -> list[dict[str, Any]]:
    done = subprocess.run([program, *words], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _compiled_memory(scratch: Path) -> Path:
    program = scratch / "card_memory"
    compiler, *options = COMPILERS["cuda"][:-1]
    source = ROOT / "benchmarks" / "card_memory.cu"
    subprocess.run([compiler, *options, "-I", PROGRAMS, "-o", program, source], check=True)
    return program


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def _query(field: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


def _card() -> str:
    return f"{_query('name')}, driver {_query('driver_version')}"


def _card_bytes() -> int:
    return int(_query("memory.total")) << 20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true", help="on one line")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
