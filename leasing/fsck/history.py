"""The state changes of leases and GPUs as the audit log tells them: the checks' second source."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

import msgspec

from leasing.models import AuditEntry

Kind = Literal["lease", "gpu"]


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


def histories(kind: Kind) -> Iterator[tuple[str, list[Change]]]:
    """For each lease or GPU, its id and its changes in order. Writers of one object wait for each other."""
    entries = AuditEntry.objects.filter(subject__startswith=f"{kind}:", action__startswith=f"{kind}.")
    rows = entries.order_by("subject", "id").values_list("subject", "text").iterator(chunk_size=2000)
    for subject, told in groupby(rows, key=lambda row: row[0]):
        acts = (msgspec.json.decode(text, type=Change) for _, text in told)
        if changes := [act for act in acts if {"from", "to"} <= act.detail.keys()]:
            yield subject.partition(":")[2], changes


def first(changes: list[Change], *events: str) -> Change | None:
    """The first change by one of these events."""
    return next((change for change in changes if change.event in events), None)
