"""Outages: an operator records when something of ours was of no use. What lies in it is free, or credited.

Months that are open are billed without it; of closed ones, credit notes take it back.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from hosts.models import Gpu, GpuModel, Host
from leasing import metering
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.billing.credits import correct
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.fleet import authorise
from leasing.locking import locked
from leasing.models import Invoice, InvoiceLine, Lease, Outage
from leasing.reasons import because
from leasing.transactions import atomically

LONGEST_OUTAGE = timedelta(days=366)
LONGEST_REASON = 200


@dataclass(frozen=True)
class Recorded:
    """An outage, how many leases lay in it, and what was credited of closed months."""

    outage: Outage
    leases: int
    credit_notes: list[Invoice]

    @property
    def credited(self) -> dict[str, Decimal]:
        """What is taken back, with its tax, by currency."""
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for note in self.credit_notes:
            sums[note.currency] -= note.gross
        return dict(sums)


def record_outage(
    *,
    actor: Actor,
    what: Host | Gpu | GpuModel,
    starts_at: datetime,
    ends_at: datetime,
    reason: str,
    now: datetime,
) -> Recorded:
    """That a host, a GPU, or all GPUs of a model were of no use. Raises InvalidRequest or NotVisible."""
    authorise(actor)
    words = " ".join(reason.split())
    if not words or len(words) > LONGEST_REASON:
        raise InvalidRequest(_("Say what happened, in at most 200 characters."), field="reason")
    if ends_at <= starts_at:
        raise InvalidRequest(_("The end must be after the start."), field="ends_at")
    if ends_at > now:
        raise InvalidRequest(
            _("Only what is over is recorded."), hint=_("Record it when it has ended."), field="ends_at"
        )
    if ends_at - starts_at > LONGEST_OUTAGE:
        raise InvalidRequest(_("An outage lasts a year at most."), field="starts_at")
    return _record(actor, _about(what), starts_at, ends_at, words, now)


def preview_outage(
    *,
    actor: Actor,
    what: Host | Gpu | GpuModel,
    starts_at: datetime,
    ends_at: datetime,
    reason: str,
    now: datetime,
) -> Recorded:
    """What recording it would do: it is done, and undone. No number is used up."""
    with transaction.atomic():
        recorded = record_outage(
            actor=actor, what=what, starts_at=starts_at, ends_at=ends_at, reason=reason, now=now
        )
        transaction.set_rollback(True)
    return recorded


def withdraw_outage(*, actor: Actor, outage_id: int, reason: str, now: datetime) -> Outage:
    """Take back one that was none: what lay in it is billed again.

    Only as long as none of it is on an invoice or a credit note: nobody pays later for what they were told is
    free. Raises InvalidRequest, NotVisible or WrongState.
    """
    authorise(actor)
    words = " ".join(reason.split())
    if not words or len(words) > LONGEST_REASON:
        raise InvalidRequest(_("Say why, in at most 200 characters."), field="reason")
    return _withdraw(actor, outage_id, words, now)


def leases_in(outage: Outage) -> QuerySet[Lease]:
    """Those that used, or may come to use, what was out of order, in its time."""
    if outage.model_id is not None:
        about: dict[str, Any] = {"flavor__model": outage.model_id}
    elif outage.gpu_id is not None:
        about = {"holds__gpu": outage.gpu_id}
    else:
        about = {"host": outage.host_id}
    return Lease.objects.filter(
        **about, starts_at__lt=outage.ends_at, ends_at__gt=outage.starts_at, active_at__isnull=False
    )


@atomically
def _record(
    actor: Actor, about: dict[str, Any], starts_at: datetime, ends_at: datetime, words: str, now: datetime
) -> Recorded:
    outage = Outage.objects.create(
        **about, starts_at=starts_at, ends_at=ends_at, reason=words, recorded_by=actor.person, recorded_at=now
    )
    leases = _locked_leases(outage)
    for lease in leases:
        metering.follow(lease)
    (kind,) = about
    record(
        action="outage.record",
        actor=actor,
        subject=f"outage:{outage.pk}",
        now=now,
        kind=kind,
        id=str(outage.what.pk),
        name=str(outage.what),
        model=outage.model.slug if outage.model else "",
        gpus=[str(pk) for pk in _gpus_of(outage)],
        starts_at=starts_at,
        ends_at=ends_at,
        reason=words,
        leases=[str(lease.pk) for lease in leases],
    )
    notes = correct(leases, because("outage", why=words), actor=actor, now=now)
    return Recorded(outage, len(leases), notes)


@atomically
def _withdraw(actor: Actor, outage_id: int, words: str, now: datetime) -> Outage:
    outage = locked(Outage.objects.all()).filter(pk=outage_id).first()
    if outage is None:
        raise NotVisible(_("There is no such outage."))
    if outage.withdrawn_at is not None:
        raise WrongState(_("This outage was withdrawn before."))
    leases = _locked_leases(outage)
    within = {"starts_at__lt": outage.ends_at, "ends_at__gt": outage.starts_at}
    if InvoiceLine.objects.filter(lease__in=leases, **within).exists():
        hint = _("It stays free. Record nothing more of it, and settle it with the team in another way.")
        raise WrongState(_("Time of this outage is on an invoice."), hint=hint)
    outage.withdrawn_at, outage.withdrawn_by, outage.withdrawn_because = now, actor.person, words
    outage.save(update_fields=["withdrawn_at", "withdrawn_by", "withdrawn_because"])
    for lease in leases:
        metering.follow(lease)
    record(
        action="outage.withdraw",
        actor=actor,
        subject=f"outage:{outage.pk}",
        now=now,
        reason=words,
        leases=[str(lease.pk) for lease in leases],
    )
    return outage


def _locked_leases(outage: Outage) -> list[Lease]:
    pks = list(leases_in(outage).order_by("pk").values_list("pk", flat=True))
    return list(locked(Lease.objects.filter(pk__in=pks).select_related("flavor", "tenant")).order_by("pk"))


def _gpus_of(outage: Outage) -> list[UUID]:
    """Those that the host has, or the one; of a model it is all there are."""
    if outage.host_id is not None:
        return list(Gpu.objects.filter(host=outage.host_id).order_by("pk").values_list("pk", flat=True))
    return [outage.gpu_id] if outage.gpu_id is not None else []


def _about(what: Host | Gpu | GpuModel) -> dict[str, Any]:
    kinds = {Host: "host", Gpu: "gpu", GpuModel: "model"}
    return {kinds[type(what)]: what}
