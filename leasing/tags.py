"""Project and cost centre of a lease: short words of its team's own, for who is charged inside the team."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.utils.translation import gettext as _

from leasing import policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible
from leasing.locking import locked
from leasing.models import Lease
from leasing.models.leases import LONGEST_TAG
from leasing.transactions import atomically


def checked_tag(text: str, field: str) -> str:
    """The words with single spaces. Raises InvalidRequest."""
    words = " ".join(text.split())
    if len(words) > LONGEST_TAG or not (words.isprintable() or not words):
        raise InvalidRequest(
            _("At most %(count)d characters, all of which can be printed.") % {"count": LONGEST_TAG},
            field=field,
        )
    return words


def checked_tags(*, project: str, cost_centre: str) -> dict[str, str]:
    """Both, by the names of their fields."""
    given = {"project": project, "cost_centre": cost_centre}
    return {name: checked_tag(text, name) for name, text in given.items()}


def set_tags(*, actor: Actor, lease_id: UUID, project: str, cost_centre: str, now: datetime) -> Lease:
    """Charge a lease to something else; what was invoiced stays as it is.

    Its owner may, and whoever approves or keeps the books of its team. Raises InvalidRequest or NotVisible.
    """
    tags = checked_tags(project=project, cost_centre=cost_centre)
    lease = Lease.objects.select_related("tenant").filter(pk=lease_id).first()
    if lease is None or actor.person is None or not policy.may_tag(actor.person, lease):
        raise NotVisible(_("There is no such workstation."))
    return _set_tags(actor, lease_id, tags, now)


@atomically
def _set_tags(actor: Actor, lease_id: UUID, tags: dict[str, str], now: datetime) -> Lease:
    lease = locked(Lease.objects.select_related("tenant")).get(pk=lease_id)
    before = {"project": lease.project, "cost_centre": lease.cost_centre}
    if before == tags:
        return lease
    lease.project, lease.cost_centre = tags["project"], tags["cost_centre"]
    lease.save(update_fields=["project", "cost_centre"])
    record(
        action="lease.tag",
        actor=actor,
        subject=f"lease:{lease.pk}",
        tenant=lease.tenant,
        now=now,
        before=before,
        after=tags,
    )
    return lease
