"""Flavors: added, described anew, retired and offered again. What is booked keeps the one that it has."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Count, Q, QuerySet
from django.utils.translation import gettext as _

from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.fleet import authorise
from leasing.locking import locked
from leasing.models import Flavor, Lease, WaitlistEntry
from leasing.states.lease import HOLDING
from leasing.transactions import atomically

WORDS = ("name", "description")
# What a machine is built from: only changed while nobody has one booked.
SHAPE = ("numa", "usb_devices")
FIXED = ("model", "gpu_count")


def flavors_in_use() -> QuerySet[Flavor]:
    """All of them, each with how many leases hold GPUs for it as `booked`."""
    counted = Count("leases", filter=Q(leases__state__in=HOLDING), distinct=True)
    return Flavor.objects.select_related("model").annotate(booked=counted).order_by("-offered", "name")


@atomically
def add_flavor(*, actor: Actor, facts: Mapping[str, Any], now: datetime) -> Flavor:
    """`facts` are slug, model and any of WORDS, SHAPE and gpu_count. It can be booked once it has a rate."""
    authorise(actor)
    flavor = Flavor(**facts)
    _check(flavor)
    try:
        with transaction.atomic():
            flavor.save(force_insert=True)
    except IntegrityError:
        raise InvalidRequest(_("There is a flavor of this short name already."), field="slug") from None
    _note("flavor.add", actor, flavor, now=now, model=flavor.model.slug, gpu_count=flavor.gpu_count)
    return flavor


@atomically
def change_flavor(*, actor: Actor, slug: str, facts: Mapping[str, Any], now: datetime) -> Flavor:
    """Any of WORDS; of SHAPE while nothing is booked. Raises InvalidRequest or WrongState."""
    authorise(actor)
    flavor = _locked(slug)
    before = {name: getattr(flavor, name) for name in (*WORDS, *SHAPE)}
    after = {name: facts.get(name, value) for name, value in before.items()}
    changed = {name: after[name] for name in after if after[name] != before[name]}
    if not changed:
        return flavor
    if set(changed) & set(SHAPE) and _is_booked(flavor):
        raise WrongState(
            _("It is booked: how its machines are built cannot be changed now."),
            hint=_("Add another flavor, and retire this one."),
        )
    for name, value in changed.items():
        setattr(flavor, name, value)
    _check(flavor)
    flavor.save()
    was = {name: before[name] for name in changed}
    _note("flavor.change", actor, flavor, now=now, before=was, after=changed)
    return flavor


@atomically
def retire_flavor(*, actor: Actor, slug: str, now: datetime) -> Flavor:
    """It cannot be booked any more; what is booked stays, and who waits for it waits no more."""
    return _offer(actor, slug, False, now)


@atomically
def offer_flavor(*, actor: Actor, slug: str, now: datetime) -> Flavor:
    """It can be booked again."""
    return _offer(actor, slug, True, now)


def _offer(actor: Actor, slug: str, offered: bool, now: datetime) -> Flavor:
    authorise(actor)
    flavor = _locked(slug)
    if flavor.offered == offered:
        raise WrongState(_("So it is already."), hint=_("Reload the page."))
    flavor.offered = offered
    flavor.save(update_fields=["offered"])
    if not offered:
        WaitlistEntry.objects.filter(flavor=flavor, closed_at=None).update(fresh=True)
    _note("flavor.offer" if offered else "flavor.retire", actor, flavor, now=now)
    return flavor


def _is_booked(flavor: Flavor) -> bool:
    return Lease.objects.filter(flavor=flavor, state__in=HOLDING).exists()


def _check(flavor: Flavor) -> None:
    try:
        flavor.full_clean(validate_unique=False)
    except ValidationError as error:
        field = next(iter(error.message_dict))
        raise InvalidRequest(" ".join(error.message_dict[field]), field=field) from None


def _locked(slug: str) -> Flavor:
    flavor = locked(Flavor.objects.select_related("model").filter(slug=slug)).first()
    if flavor is None:
        raise NotVisible(_("There is no such flavor."))
    return flavor


def _note(action: str, actor: Actor, flavor: Flavor, *, now: datetime, **facts: Any) -> None:
    record(action=action, actor=actor, subject=f"flavor:{flavor.slug}", now=now, flavor=flavor.slug, **facts)
