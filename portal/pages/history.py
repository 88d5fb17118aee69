"""What happened to a workstation, in plain words: its audit entries, each said as a sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.functional import Promise

from leasing.models import AuditEntry, Lease
from portal.pages.words import act_words


@dataclass(frozen=True)
class Happening:
    """One line of a history; `at` is the time that the evidence gives."""

    at: datetime
    action: str
    sentence: str | Promise
    actor: str
    reason: str


def history_of(lease: Lease) -> list[Happening]:
    """Newest first."""
    entries = AuditEntry.objects.filter(subject=f"lease:{lease.pk}").order_by("-id")
    return [happening(entry) for entry in entries]


def happening(entry: AuditEntry) -> Happening:
    told = details(entry)
    return Happening(
        at=datetime.fromisoformat(told["effective_at"]),
        action=entry.action,
        sentence=act_words(entry.action),
        actor=entry.actor,
        reason=told["detail"].get("reason") or told["detail"].get("cause") or "",
    )


def details(entry: AuditEntry) -> dict[str, Any]:
    """The entry as it was sealed: also what its columns do not say."""
    told: dict[str, Any] = json.loads(entry.text)
    return told
