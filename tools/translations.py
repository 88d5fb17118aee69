"""Collect the texts to translate, or check that every translation is complete, well formed and current."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
from django.core.management import call_command
from django.test.utils import override_settings

ROOT = Path(__file__).resolve().parent.parent
LOCALE = ROOT / "locale"
NOT_SOURCES = ["var/*", ".venv/*", "tests/*", "lab/*", "benchmarks/*", "tools/*"]


def main(verb: str) -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    os.chdir(ROOT)
    django.setup()
    return {"collect": collect, "check": check}[verb]()


def collect() -> int:
    call_command("makemessages", all=True, no_location=True, no_obsolete=True, ignore_patterns=NOT_SOURCES)
    return 0


def check() -> int:
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(shutil.copytree(LOCALE, Path(folder) / "locale"))
        with override_settings(LOCALE_PATHS=[str(fresh)]):
            collect()
        names = [path.relative_to(fresh) for path in sorted(fresh.glob("*/LC_MESSAGES/*.po"))]
        faults = [fault for name in names for fault in faults_of(LOCALE / name, fresh / name)]
    print(*faults, f"{len(names)} catalogues, {len(faults)} faults", sep="\n")
    return 1 if faults else 0


def faults_of(kept: Path, fresh: Path) -> Iterator[str]:
    name = kept.relative_to(ROOT)
    if without_dates(kept) != without_dates(fresh):
        yield f"{name}: not up to date, run `make messages` and translate what is new"
    for state in ("untranslated", "only-fuzzy"):
        if entries := selected(kept, state):
            yield f"{name}: {state} texts\n{entries}"
    checked = subprocess.run(["msgfmt", "--check", "-o", os.devnull, kept], capture_output=True, text=True)
    if checked.returncode:
        yield checked.stderr


def without_dates(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if "-Date:" not in line]


def selected(path: Path, state: str) -> str:
    """The entries in this state; the first paragraph is the header and none of them."""
    words = ["msgattrib", f"--{state}", "--no-wrap", str(path)]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return "\n\n".join(entry for entry in listed.split("\n\n")[1:] if entry.strip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
