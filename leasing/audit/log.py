"""Recording an act, in the transaction that does it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from leasing.actors import Actor
from leasing.models import AuditEntry, Person, Tenant
from leasing.prepared import Change, insert, inserting_row

SPARINGLY_PER_MINUTE = 30


def canonical(value: dict[str, Any]) -> str:
    """JSON with sorted keys and no spaces; dates in ISO 8601, everything else that is not JSON as text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def record(
    *,
    action: str,
    actor: Actor,
    subject: str,
    now: datetime,
    tenant: Tenant | None = None,
    effective_at: datetime | None = None,
    behalf: Person | None = None,
    **detail: Any,
) -> AuditEntry:
    """Append one entry. `subject` is `kind:id`, such as `lease:<uuid>`; `detail` must hold no secrets.

    `behalf` is whose it is that somebody else has acted on.
    """
    entry = _entry(
        action=action,
        actor=actor,
        subject=subject,
        now=now,
        tenant=tenant,
        effective_at=effective_at,
        behalf=behalf,
        detail=detail,
    )
    return insert(entry)


def recording(
    *, action: str, actor: Actor, subject: str, now: datetime, tenant: Tenant, **detail: Any
) -> Change:
    """The same, to be done together with what it tells of."""
    return inserting_row(
        _entry(action=action, actor=actor, subject=subject, now=now, tenant=tenant, detail=detail)
    )


def _entry(
    *,
    action: str,
    actor: Actor,
    subject: str,
    now: datetime,
    tenant: Tenant | None,
    detail: dict[str, Any],
    effective_at: datetime | None = None,
    behalf: Person | None = None,
) -> AuditEntry:
    others = behalf is not None and (actor.person is None or behalf.pk != actor.person.pk)
    text = canonical(
        {
            "action": action,
            "actor": {"kind": actor.kind, "name": actor.name, "token": actor.token},
            "address": actor.address,
            "detail": detail,
            "effective_at": effective_at or now,
            "on_behalf_of": behalf.username if behalf is not None and others else None,
            "recorded_at": now,
            "request_id": actor.request_id,
            "subject": subject,
            "tenant": tenant.slug if tenant else None,
        }
    )
    return AuditEntry(
        recorded_at=now, action=action, actor=actor.name, subject=subject, tenant=tenant, text=text
    )


def record_sparingly(*, action: str, actor: Actor, subject: str, now: datetime, **detail: Any) -> None:
    """Append an entry about what anyone may cause without end, within measure: it tells that it happened."""
    lately = AuditEntry.objects.filter(subject=subject, recorded_at__gt=now - timedelta(minutes=1))
    if lately.count() < SPARINGLY_PER_MINUTE:
        record(action=action, actor=actor, subject=subject, now=now, **detail)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
