"""Fair shares of what is scarce: what each team has had of a GPU model, and what its share weighs.

leasing.lines says what follows from them for whoever joins a line.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import DateTimeField, DurationField, ExpressionWrapper, F, Q, Sum, Value
from django.db.models.functions import Coalesce, Greatest, Least
from django.utils.translation import gettext as _

from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible
from leasing.fleet import authorise
from leasing.lines import Share
from leasing.locking import locked
from leasing.models import Lease, Tenant, WaitlistEntry
from leasing.timing import SHARE_SPAN

HEAVIEST = 1000


def set_weight(*, actor: Actor, tenant: str, weight: int, now: datetime) -> Tenant:
    """What a team's fair share weighs, for whoever joins a line from now on: places in it stay.

    Raises NotVisible or InvalidRequest.
    """
    authorise(actor)
    if not 1 <= weight <= HEAVIEST:
        raise InvalidRequest(
            _("The weight is a whole number from 1 to %(most)d.") % {"most": HEAVIEST}, field="weight"
        )
    with transaction.atomic():
        found = locked(Tenant.objects.filter(slug=tenant)).first()
        if found is None:
            raise NotVisible(_("There is no such team."))
        was, found.weight = found.weight, weight
        if was != weight:
            found.save(update_fields=["weight"])
            record(
                action="tenant.weigh",
                actor=actor,
                subject=f"tenant:{found.slug}",
                tenant=found,
                now=now,
                was=was,
                weight=weight,
            )
    return found


def shares_of(model_id: int, *, now: datetime) -> dict[UUID, Share]:
    """What each team has had of a GPU model lately, and what it waits for."""
    since = now - SHARE_SPAN
    begun = Greatest(F("starts_at"), Value(since, output_field=DateTimeField()))
    over = Least(Coalesce("stopped_at", "ends_at"), F("ends_at"), Value(now, output_field=DateTimeField()))
    had = (
        Lease.objects.filter(
            flavor__model=model_id, starts_at__lt=now, ends_at__gt=since, active_at__isnull=False
        )
        .filter(Q(stopped_at=None) | Q(stopped_at__gt=begun))
        .order_by()
        .values_list("tenant_id", "tenant__weight", "flavor__gpu_count")
        .annotate(total=Sum(ExpressionWrapper(over - begun, output_field=DurationField())))
    )
    waits = (
        WaitlistEntry.objects.filter(flavor__model=model_id, closed_at=None)
        .order_by()
        .values_list("tenant_id", "tenant__weight", "flavor__gpu_count")
        .annotate(total=Sum("duration"))
    )
    weights: dict[UUID, int] = {}
    seconds: dict[UUID, int] = defaultdict(int)
    for tenant_id, weight, gpus, total in [*had, *waits]:
        weights[tenant_id] = weight
        seconds[tenant_id] += gpus * int(total.total_seconds())
    return {tenant_id: Share(seconds[tenant_id], weight) for tenant_id, weight in weights.items()}
