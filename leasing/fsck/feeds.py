"""Check of the calendar feeds: the addresses that are read without signing in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

from leasing.fsck.finding import Finding
from leasing.models import AuditEntry, CalendarFeed


def feeds_were_made_by_their_people(now: datetime) -> Iterator[Finding]:
    """Every calendar feed was made by its person and has not been revoked"""
    made: dict[str, str] = {}
    told = AuditEntry.objects.filter(action__in=["feed.create", "feed.revoke"]).order_by("id")
    for action, subject, text in told.values_list("action", "subject", "text"):
        feed = json.loads(text)["detail"]["feed"]
        if action == "feed.create":
            made[feed] = subject
        else:
            made.pop(feed, None)
    for feed_id, person_id in CalendarFeed.objects.values_list("pk", "person_id"):
        if made.get(str(feed_id)) != f"person:{person_id}":
            yield Finding(f"feed:{feed_id}", "was not made by its person, or has been revoked")
