"""What a host found otherwise than it should be gets into its history: once when it is found."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from hosts.models import Host, HostCheckUp
from hosts.protocol.checkup import Check, CheckUp
from hosts.protocol.findings import DRIFT_TOPICS, put_in_words
from leasing.actors import Actor
from leasing.audit.log import record


def record_new(host: Host, event: CheckUp, *, at: datetime, now: datetime) -> None:
    """One entry for each difference that the last check-up did not have."""
    last = HostCheckUp.objects.filter(host=host).first()
    known = msgspec.convert(last.checks, type=list[Check]) if last else []
    for check in _differences(event.checks):
        if check not in known:
            record(
                action="host.drift",
                actor=Actor.of_host(host),
                subject=f"host:{host.pk}",
                effective_at=at,
                now=now,
                code=check.code,
                outcome=check.outcome,
                about=check.subject,
                facts=dict(check.facts),
                reason=_words(check),
            )


def _differences(checks: tuple[Check, ...]) -> Iterator[Check]:
    return (check for check in checks if check.code in DRIFT_TOPICS)


def _words(check: Check) -> str:
    """In English: the log is one text for all its readers."""
    words = put_in_words(check, DRIFT_TOPICS)
    return f"{check.subject} {words.title}: {words.finding}".strip()[:2000]
