"""What a host's doctor found, in the words of the reader's language: for the pages and for the API."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

import msgspec
from django.utils.translation import gettext

from hosts.models import HostCheckUp
from hosts.protocol.checkup import Check, Reading
from hosts.protocol.findings import TOPICS, put_in_words
from portal.pages.looks import VERDICT_LOOKS, Look

PROBLEMS = ("fail", "warn")


@dataclass(frozen=True)
class Shown:
    """One verdict in words. `read` is what the host looked at."""

    code: str
    outcome: str
    verdict: str
    subject: str
    title: str
    finding: str
    why: str
    change: str
    lines: str
    read: tuple[Reading, ...]

    @property
    def look(self) -> Look:
        return VERDICT_LOOKS[self.verdict]


@dataclass(frozen=True)
class ShownCheckUp:
    """All of them, the worst first."""

    taken_at: datetime
    simulated: bool
    left_out: int
    failed: int
    warned: int
    checks: list[Shown]


def show(found: HostCheckUp) -> ShownCheckUp:
    checks = msgspec.convert(found.checks, type=list[Check])
    return ShownCheckUp(
        taken_at=found.taken_at,
        simulated=found.simulated,
        left_out=found.left_out,
        failed=found.failed,
        warned=found.warned,
        checks=[_shown(check) for check in checks],
    )


def by_subject(checks: Iterable[Shown], *, only_problems: bool) -> list[tuple[str, list[Shown]]]:
    """The host's own first, then those of each card."""
    chosen = [check for check in checks if not only_problems or check.verdict in PROBLEMS]
    ordered = sorted(chosen, key=lambda check: check.subject)
    return [(subject, list(group)) for subject, group in groupby(ordered, key=lambda check: check.subject)]


def _shown(check: Check) -> Shown:
    words = put_in_words(check, TOPICS, translate=gettext)
    return Shown(
        code=check.code,
        outcome=check.outcome,
        verdict=check.verdict,
        subject=check.subject,
        title=words.title,
        finding=words.finding,
        why=words.why,
        change=words.change,
        lines=words.lines,
        read=check.read,
    )
