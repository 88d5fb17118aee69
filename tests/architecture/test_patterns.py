"""A pattern ends where a text ends: `$` also stands before a last line break, which no name may have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hosts.protocol import fields, machine

ROOT = Path(__file__).parents[2]
LOOSE = re.compile(r"""(?:Meta\([^"]*pattern=|RegexValidator\()\s*(?:r?"[^"]*"\s*)*r?"[^"]*\$\"""")


def test_no_pattern_lets_a_last_line_break_through() -> None:
    sources = [path for folder in ("hosts", "leasing", "portal") for path in (ROOT / folder).rglob("*.py")]
    loose = [str(path) for path in sources if LOOSE.search(path.read_text())]
    assert len(sources) > 300
    assert loose == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (fields.Name, "hv1"),
        (fields.CardAddress, "0000:41:00.0"),
        (fields.Sha256, "a" * 64),
        (machine.SshKey, "ssh-ed25519 AAAA"),
        (machine.MountField, "/srv"),
        (machine.HostName, "ws-1"),
    ],
)
def test_names_are_on_one_line(kind: Any, text: str) -> None:
    assert msgspec.convert(text, kind) == text
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(f"{text}\n", kind)
