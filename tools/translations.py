"""Collect the texts to translate, or check that every translation is complete, well formed and current."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import django
from django.core.management import call_command
from django.test.utils import override_settings

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("portal", "leasing", "hosts", "templates")


def main(verb: str) -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    django.setup()
    return {"collect": collect, "check": check}[verb]()


def collect() -> int:
    collected(ROOT / "locale")
    return 0


def check() -> int:
    with tempfile.TemporaryDirectory() as folder:
        fresh = collected(Path(shutil.copytree(ROOT / "locale", Path(folder) / "locale")))
        names = [path.relative_to(fresh.parent) for path in sorted(fresh.glob("*/LC_MESSAGES/*.po"))]
        faults = [fault for name in names for fault in faults_of(name, fresh.parent)]
    print(*faults, f"{len(names)} catalogues, {len(faults)} faults", sep="\n")
    return 1 if faults else 0


def collected(locale: Path) -> Path:
    """Bring the catalogues in `locale` up to date with the texts of the sources."""
    with tempfile.TemporaryDirectory() as folder, override_settings(LOCALE_PATHS=[]), chdir(folder):
        for name in SOURCES:
            Path(name).symlink_to(ROOT / name)
        Path("locale").symlink_to(locale)
        call_command("makemessages", all=True, symlinks=True, no_location=True, no_obsolete=True, verbosity=0)
    return locale


def faults_of(name: Path, fresh: Path) -> Iterator[str]:
    kept = ROOT / name
    if not kept.exists() or without_dates(kept) != without_dates(fresh / name):
        yield f"{name}: not up to date, run `make messages` and translate what is new"
        return
    for state in ("untranslated", "only-fuzzy"):
        if entries := selected(kept, state):
            yield f"{name}: {len(entries)} texts {state}, such as\n{entries[0]}"
    checked = subprocess.run(["msgfmt", "--check", "-o", os.devnull, kept], capture_output=True, text=True)
    if checked.returncode:
        yield checked.stderr


def without_dates(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if "-Date:" not in line]


def selected(path: Path, state: str) -> list[str]:
    """The entries in this state; the first paragraph is the header and none of them."""
    words = ["msgattrib", f"--{state}", "--no-wrap", str(path)]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [entry for entry in listed.split("\n\n")[1:] if entry.strip()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
