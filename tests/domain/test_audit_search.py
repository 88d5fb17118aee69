"""Searching the audit log: by who, what, about what, whose and when; page by page without counting."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record
from leasing.audit.search import Search, find, page
from leasing.models import AuditEntry
from tests.domain.ground import NOW, Ground

HOUR = timedelta(hours=1)


def found(**wanted: Any) -> list[str]:
    rows = find(AuditEntry.objects.all(), Search(**wanted)).order_by("pk")
    return [f"{row.action} {row.subject}" for row in rows]


def test_each_filter_finds_what_it_says(ground: Ground) -> None:
    ada, lease = Actor.of_person(ground.person), ground.lease()
    record(action="a.one", actor=ada, subject=f"lease:{lease.pk}", tenant=ground.tenant, now=NOW)
    record(action="a.two", actor=SYSTEM, subject="gpu:1", now=NOW + HOUR)
    record(action="b.one", actor=ada, subject="gpu:2", now=NOW + 2 * HOUR)
    everything = [f"a.one lease:{lease.pk}", "a.two gpu:1", "b.one gpu:2"]
    assert found() == everything
    assert found(actor="ada") == [everything[0], everything[2]]
    assert found(actions=("a.one", "a.two")) == everything[:2]
    assert found(subject="gpu:2") == everything[2:]
    assert found(subject=lease.machine_name) == everything[:1]
    assert found(subject="ws-00000000") == []
    assert found(tenant="studio") == everything[:1]
    assert found(since=NOW + HOUR, before=NOW + 2 * HOUR) == everything[1:2]
    assert found(actor="ada", since=NOW + HOUR) == everything[2:]


@pytest.mark.django_db
def test_pages_lead_through_everything_in_both_directions() -> None:
    numbers = [record(action="test", actor=SYSTEM, subject="t:1", now=NOW).pk for _ in range(7)]
    rows, seen, older = AuditEntry.objects.all(), [], None
    while True:
        shown = page(rows, size=3, older=older, newer=None)
        seen.append([entry.pk for entry in shown.entries])
        if shown.older is None:
            break
        older = shown.older
    newest_first = numbers[::-1]
    assert seen == [newest_first[:3], newest_first[3:6], newest_first[6:]]
    back = page(rows, size=3, older=None, newer=seen[-1][0])
    assert [entry.pk for entry in back.entries] == seen[1]
    assert back.newer == seen[1][0]
    first = page(rows, size=3, older=None, newer=back.newer)
    assert ([entry.pk for entry in first.entries], first.newer) == (seen[0], None)
    # What is recorded meanwhile moves nothing from one page to another.
    record(action="test", actor=SYSTEM, subject="t:1", now=NOW)
    again = page(rows, size=3, older=seen[0][-1], newer=None)
    assert [entry.pk for entry in again.entries] == seen[1]
