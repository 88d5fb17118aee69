"""Compile every template, so that a misspelt tag fails the check and not a page."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import django
from django.template import TemplateSyntaxError
from django.template.loader import get_template

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    django.setup()
    names = sorted(str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*") if path.is_file())
    faults = [fault for name in names if (fault := fault_in(name))]
    print(*faults, f"{len(names)} templates, {len(faults)} faulty", sep="\n")
    return 1 if faults else 0


def fault_in(name: str) -> str | None:
    try:
        get_template(name)
    except TemplateSyntaxError as error:
        return f"{name}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
