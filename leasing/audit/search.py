"""Finding entries of the audit log. Pages go by the entry's number: the last costs what the first does."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import QuerySet

from leasing.actors import Actor
from leasing.audit.log import record
from leasing.models import AuditEntry, Lease

MACHINE_NAME = re.compile(r"ws-([0-9a-f]{8})")


@dataclass(frozen=True)
class Search:
    """What is looked for; what is empty is not asked for. `[since, before)` is when it was recorded."""

    actions: Collection[str] = ()
    actor: str = ""
    subject: str = ""
    tenant: str = ""
    since: datetime | None = None
    before: datetime | None = None

    def told(self) -> dict[str, object]:
        """For the entry about an export, and for its file's reader."""
        facts: dict[str, object] = {"actions": sorted(self.actions), **vars(self)}
        return {name: value for name, value in facts.items() if value}


@dataclass(frozen=True)
class Found:
    """Entries, newest first; `newer` and `older` are where the neighbouring pages begin."""

    entries: list[AuditEntry]
    newer: int | None
    older: int | None


def find(entries: QuerySet[AuditEntry], search: Search) -> QuerySet[AuditEntry]:
    exact = {"actor": search.actor, "subject": _subject(search.subject), "tenant__slug": search.tenant}
    entries = entries.filter(**{name: value for name, value in exact.items() if value})
    if search.actions:
        entries = entries.filter(action__in=search.actions)
    if search.since:
        entries = entries.filter(recorded_at__gte=search.since)
    if search.before:
        entries = entries.filter(recorded_at__lt=search.before)
    return entries


def page(found: QuerySet[AuditEntry], *, size: int, older: int | None, newer: int | None) -> Found:
    """Those older than the one number, or just newer than the other; without either the newest of all."""
    found = found.select_related("tenant", "leaf")
    if newer is not None:
        rows = list(found.filter(pk__gt=newer).order_by("pk")[: size + 1])
        more, rows = len(rows) > size, rows[:size][::-1]
        return Found(rows, rows[0].pk if more else None, rows[-1].pk if rows else newer + 1)
    if older is not None:
        found = found.filter(pk__lt=older)
    rows = list(found.order_by("-pk")[: size + 1])
    more, rows = len(rows) > size, rows[:size]
    first = rows[0].pk if rows else (older or 0) - 1
    return Found(rows, first if older is not None else None, rows[-1].pk if more else None)


def export_lines(
    entries: QuerySet[AuditEntry], search: Search, *, actor: Actor, now: datetime
) -> Iterator[str]:
    """The entries as lines of JSON, oldest first, each with its text as it was sealed.

    The leaf's hash is SHA-256 of a zero byte and the text. That it was exported is recorded.
    """
    record(action="audit.export", actor=actor, subject="audit:log", now=now, search=search.told())
    return _lines(find(entries, search))


def _lines(found: QuerySet[AuditEntry]) -> Iterator[str]:
    rows = found.order_by("pk").values_list("pk", "leaf__index", "text")
    for number, leaf, text in rows.iterator(chunk_size=2000):
        yield json.dumps({"entry": number, "leaf": leaf, "text": text}, ensure_ascii=False) + "\n"


def _subject(text: str) -> str:
    """As entries have it; a workstation may be called by its name."""
    named = MACHINE_NAME.fullmatch(text)
    if named is None:
        return text
    first, last = (UUID(named[1] + digit * 24) for digit in "0f")
    lease = Lease.objects.filter(pk__gte=first, pk__lte=last).values_list("pk", flat=True).first()
    return f"lease:{lease}" if lease else text
