"""Row locks, and the one order in which they are taken.

Closure, tenant, person, leases by id, GPUs by id, blocks by id, waitlist entries, holds, commands, series of
numbers; a host's row, which only its reports lock, comes before all of them. Whoever keeps to it never waits
for someone who waits for them.
"""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from django.db import connection
from django.db.models import Model, QuerySet

from leasing.models import Person, Tenant
from leasing.statements import ask_rows, columns_of

M = TypeVar("M", bound=Model)


def locked(rows: QuerySet[M]) -> QuerySet[M]:
    """The rows, to be locked until the transaction ends.

    The lock lets others insert rows that refer to these: a stronger one would make every command, entry and
    notice wait for whoever has its host, tenant or person.
    """
    return rows.select_for_update(of=("self",), no_key=True)


def lock_of(alias: str, *, skip_locked: bool = False) -> str:
    """Locks the rows of a statement of our own in the same way; SQLite has one writer anyway."""
    if not connection.features.has_select_for_update:
        return ""
    return f"FOR NO KEY UPDATE OF {alias}{' SKIP LOCKED' if skip_locked else ''}"


def lock_tenant_and_person(tenant_id: UUID, person_id: UUID) -> Tenant:
    """Lock both, in this order; the tenant is as it is then."""
    statement = (
        f"SELECT {columns_of(Tenant, 't')} FROM {Tenant._meta.db_table} t"  # noqa: S608 - no values in it
        f" JOIN {Person._meta.db_table} p ON p.id = %(person)s WHERE t.id = %(tenant)s {lock_of('t, p')}"
    )
    (tenant,) = ask_rows(Tenant, statement, {"tenant": tenant_id, "person": person_id})
    return tenant
