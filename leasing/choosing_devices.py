"""Other USB devices, or none, for a workstation that has not begun."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from leasing import devices, holds, offering, policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.changing import lock_for_change
from leasing.errors import WrongState
from leasing.extras import look_again
from leasing.models import Lease, WaitlistEntry
from leasing.reasons import NONE
from leasing.states.lease import AHEAD
from leasing.transactions import atomically
from leasing.wake import wake_control


def choose_devices(*, actor: Actor, lease_id: UUID, usb: Collection[int], now: datetime) -> Lease:
    """Have these devices plugged in instead; all or nothing. It moves to their host if it is not there.

    Raises InvalidRequest, NothingFree or WrongState.
    """
    if actor.person is None:
        raise TypeError("only a person chooses devices")
    policy.fetch_lease(actor.person, lease_id, "use")
    return _choose(actor, lease_id, usb, now)


@atomically
def _choose(actor: Actor, lease_id: UUID, usb: Collection[int], now: datetime) -> Lease:
    lease = lock_for_change(lease_id)
    if lease.state not in AHEAD:
        raise WrongState(_("It has begun: its devices cannot be changed any more."))
    before, had = devices.orders_of(lease), set(lease.devices.values_list("device", flat=True))
    chosen = devices.chosen_devices(lease.flavor, usb)
    lease.devices.all().delete()
    lease.bound_to = chosen[0].host if chosen else None
    lease.waiting_because = NONE
    lease.save(update_fields=["bound_to", "waiting_because"])
    devices.give(lease, chosen)
    if chosen and lease.holds.exclude(gpu__host=lease.bound_to).exists():
        offering.show_all_freed(lease.flavor.model_id, now=now)
        holds.drop(lease)
        holds.place(lease, now=now)
    devices.require_free(lease)
    look_again(WaitlistEntry.objects.filter(devices__in=had))
    record(
        action="lease.devices",
        actor=actor,
        subject=f"lease:{lease.pk}",
        tenant=lease.tenant,
        now=now,
        before=[f"{each.usb_id} {each.port}" for each in before],
        after=[f"{each.usb_id} {each.port}" for each in devices.orders_of(lease)],
    )
    transaction.on_commit(wake_control)
    return lease
