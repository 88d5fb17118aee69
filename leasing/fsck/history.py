"""What the audit log tells of leases, GPUs and quotas: the checks' second source."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import reduce
from itertools import groupby
from operator import or_
from typing import Any, Literal

import msgspec
from django.db.models import Q

from leasing.models import AuditEntry
from leasing.terms import Term

Kind = Literal["lease", "gpu", "home", "snapshot"]


class Who(msgspec.Struct, frozen=True):
    kind: str
    name: str


class Change(msgspec.Struct, frozen=True):
    """One entry that tells of a state change; `detail` has at least `from` and `to`."""

    action: str
    actor: Who
    detail: dict[str, Any]
    effective_at: datetime
    recorded_at: datetime

    @property
    def event(self) -> str:
        return self.action.partition(".")[2]

    @property
    def before(self) -> str | None:
        return self.detail["from"]  # type: ignore[no-any-return]

    @property
    def after(self) -> str:
        return str(self.detail["to"])


class Act(Change, frozen=True):
    """One entry, with whom it is about."""

    subject: str
    tenant: str | None

    @property
    def subject_id(self) -> str:
        return self.subject.partition(":")[2]


def terms_of(told: dict[str, Any]) -> list[Term]:
    """The terms that an entry tells of."""
    return msgspec.convert(told["terms"], type=list[Term], strict=False)


def acts(*prefixes: str) -> Iterator[Act]:
    """The entries whose action begins so, in the order in which they were written."""
    wanted = reduce(or_, (Q(action__startswith=prefix) for prefix in prefixes))
    texts = AuditEntry.objects.filter(wanted).order_by("id").values_list("text", flat=True)
    for text in texts.iterator(chunk_size=2000):
        yield msgspec.json.decode(text, type=Act)


def histories(kind: Kind) -> Iterator[tuple[str, list[Change]]]:
    """For each lease or GPU, its id and its changes in order. Writers of one object wait for each other."""
    entries = AuditEntry.objects.filter(subject__startswith=f"{kind}:", action__startswith=f"{kind}.")
    rows = entries.order_by("subject", "id").values_list("subject", "text").iterator(chunk_size=2000)
    for subject, told in groupby(rows, key=lambda row: row[0]):
        found = (msgspec.json.decode(text, type=Change) for _, text in told)
        if changes := [act for act in found if {"from", "to"} <= act.detail.keys()]:
            yield subject.partition(":")[2], changes


def first(changes: list[Change], *events: str) -> Change | None:
    """The first change by one of these events."""
    return next((change for change in changes if change.event in events), None)
