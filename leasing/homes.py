"""Home volumes: made where a lease first wants one, attached to one lease at a time, kept until removed.

The only writer of `HomeVolume.state`. A volume's row is locked after its lease's.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet, Subquery
from django.utils.translation import gettext as _

from hosts.models import Host, StoragePool
from leasing import goals, policy
from leasing.actors import SYSTEM, Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.extras import extras_of, look_again, why_home_is_taken
from leasing.keys import seal_storage_key
from leasing.locking import locked
from leasing.models import HomeVolume, Lease, Person, StorageRate, Tenant, WaitlistEntry
from leasing.outbox import queue_command
from leasing.states.home import TRANSITIONS, USABLE, HomeEvent, HomeState
from leasing.storing import follow_kept, monthly
from leasing.timing import clamp
from leasing.transactions import atomically
from leasing.wake import wake_control

REMOVAL_AGAIN = timedelta(minutes=15)
_SHOWN = ("tenant", "person", "pool", "lease__flavor", "last_lease__flavor")


def volumes_of(person: Person) -> QuerySet[HomeVolume]:
    """Those that are not removed."""
    volumes = HomeVolume.objects.filter(person=person).exclude(state=HomeState.REMOVED)
    return volumes.select_related(*_SHOWN)


def left_behind(tenant: Tenant) -> QuerySet[HomeVolume]:
    """Volumes of people who are no members any more. Nobody can use them; whoever leads may remove them."""
    members = policy.people_with_role(tenant, "member")
    volumes = HomeVolume.objects.filter(tenant=tenant).exclude(state=HomeState.REMOVED)
    return volumes.exclude(person__in=members).select_related("person", "pool")


def fetch_volume(person: Person, volume_id: UUID) -> HomeVolume:
    """One of the person's own, or one that was left behind in a tenant that they lead. Raises NotVisible."""
    found = HomeVolume.objects.select_related(*_SHOWN).filter(pk=volume_id).first()
    if found is not None and not (found.person_id == person.pk or _leads(person, found)):
        found = None
    if found is not None and found.state == HomeState.REMOVED:
        found = None
    if found is None:
        raise NotVisible(_("There is no such home volume."))
    return found


def are_offered() -> bool:
    """Whether any host has a place for them."""
    return _hosts_with_pool().exists()


@dataclass(frozen=True)
class HomesInReach:
    """For whoever books: whether any host has a place, whether they have a volume already, its size, and what
    it costs a month; None if it is free."""

    offered: bool
    kept: bool
    gib: int
    monthly: Decimal | None
    currency: str


def homes_in_reach(person: Person, *, now: datetime) -> HomesInReach:
    known = volumes_of(person).filter(state__in=USABLE).first()
    gib = known.size_gib if known else settings.HOME_GIB
    newest = StorageRate.objects.filter(valid_from__lte=now).order_by("-valid_from")
    offers = _hosts_with_pool().annotate(
        price=Subquery(newest.values("per_gib_month")[:1]), currency=Subquery(newest.values("currency")[:1])
    )
    offer = offers.values_list("price", "currency").first()
    price, currency = offer or (None, "")
    cost = None if price is None else monthly(price, gib, currency)
    return HomesInReach(offer is not None, known is not None, gib, cost, currency or "")


def check_wish(lease: Lease) -> None:
    """Whether the lease, whose person is locked, may want it: one at a time. Raises InvalidRequest."""
    check_offers(lease)
    if (other := extras_of(lease).booked_with(lease.starts_at, lease.ends_at)) is not None:
        raise InvalidRequest(
            str(why_home_is_taken(other)),
            hint=_("Only one workstation at a time has it. Book this one without, or for another time."),
            field="with_home",
        )


def check_offers(lease: Lease | WaitlistEntry) -> None:
    """Whether any host could give the lease the home volume that it wants. Raises InvalidRequest."""
    if lease.with_home and not are_offered():
        raise InvalidRequest(_("No host here keeps home volumes."), field="with_home")


def can_attach(lease: Lease) -> bool:
    """Whether the volume, if the lease wants one, is free for it now, where its GPUs are."""
    if not lease.with_home:
        return True
    hold = lease.holds.select_related("gpu__host").first()
    if hold is None or hold.gpu.host.pool_id is None:
        return False
    known = _in_pool(lease, hold.gpu.host.pool_id).first()
    return known is None or known.state == HomeState.DETACHED


def attach(lease: Lease, *, at: datetime, now: datetime) -> None:
    """If it wants one: the volume in its host's pool, which is to be made if there is none yet.

    Raises WrongState if another lease has it. The lease is locked.
    """
    if not lease.with_home:
        return
    if lease.host is None or lease.host.pool is None:
        raise WrongState(_("Its host keeps no home volumes."))
    pool = lease.host.pool
    volume = locked(_in_pool(lease, pool.pk)).first() or _create(lease, pool, now=now)
    volume.lease = volume.last_lease = lease
    change_state(volume, HomeEvent.ATTACH, actor=SYSTEM, at=at, now=now, lease=str(lease.pk))


def note_made(lease: Lease, *, at: datetime, now: datetime) -> None:
    """A machine runs with it: from now on it is never made anew."""
    volume = locked(HomeVolume.objects.filter(lease=lease, made_at=None).select_related("tenant")).first()
    if volume is not None:
        volume.made_at = at
        volume.save(update_fields=["made_at"])
        follow_kept(volume, now=now)
        _record(volume, "home.made", SYSTEM, at=at, now=now, lease=str(lease.pk))


def detach(lease: Lease, *, at: datetime, now: datetime) -> None:
    """Its machine is gone: the volume is kept, and free."""
    volume = locked(HomeVolume.objects.filter(lease=lease).select_related("tenant")).first()
    if volume is not None:
        volume.lease = None
        change_state(volume, HomeEvent.DETACH, actor=SYSTEM, at=at, now=now, lease=str(lease.pk))


@atomically
def remove_volume(*, actor: Actor, volume_id: UUID, now: datetime) -> HomeVolume:
    """Destroy it, with all that is on it. Raises NotVisible, or WrongState while a lease has it."""
    if actor.person is None:
        raise TypeError("only a person has a home volume removed")
    known = fetch_volume(actor.person, volume_id)
    volume = locked(HomeVolume.objects.select_related("tenant", "pool", "person")).get(pk=known.pk)
    if volume.state == HomeState.REMOVING:
        return volume
    if volume.state == HomeState.READING:
        raise WrongState(_("It is being read just now."), hint=_("Wait until that is over, then try again."))
    if volume.state != HomeState.DETACHED:
        raise WrongState(
            _("A workstation has this home volume."), hint=_("End the workstation first, then remove it.")
        )
    volume.kept_until = now
    volume.save(update_fields=["kept_until"])
    change_state(volume, HomeEvent.REMOVE, actor=actor, at=now, now=now)
    follow_kept(volume, now=now)
    order_removal(volume, now=now)
    look_again(WaitlistEntry.objects.filter(owner=volume.person, tenant=volume.tenant, with_home=True))
    transaction.on_commit(wake_control)
    return volume


def removals_due(now: datetime) -> QuerySet[HomeVolume]:
    """Volumes of whose end no host has told in time."""
    return HomeVolume.objects.filter(state=HomeState.REMOVING, removal_due_at__lte=now)


def order_removal(volume: HomeVolume, *, now: datetime) -> None:
    """Tell the host of its pool that was heard of last; another time it may be another one."""
    host = Host.objects.filter(pool=volume.pool_id, retired_at=None).order_by("-last_seen_at").first()
    volume.removal_due_at = now + REMOVAL_AGAIN
    volume.generation += 1
    volume.save(update_fields=["removal_due_at", "generation"])
    if host is not None:
        queue_command(
            host=host,
            subject=goals.home_subject(volume),
            generation=volume.generation,
            goal=goals.remove_home(volume),
            now=now,
            deadline=REMOVAL_AGAIN,
        )


def note_removed(host: Host, volume_id: UUID, *, at: datetime, now: datetime) -> bool:
    """A host of its pool has destroyed it; False if that was not ordered of it."""
    ordered = HomeVolume.objects.filter(pk=volume_id, pool=host.pool_id, state=HomeState.REMOVING)
    volume = locked(ordered.select_related("tenant")).first()
    if volume is None:
        return False
    volume.sealed_key, volume.removal_due_at = "", None
    volume.save(update_fields=["sealed_key", "removal_due_at"])
    change_state(volume, HomeEvent.GONE, actor=Actor.of_host(host), at=at, now=now)
    return True


def _hosts_with_pool() -> QuerySet[Host]:
    return Host.objects.filter(pool__isnull=False, retired_at=None)


def _leads(person: Person, volume: HomeVolume) -> bool:
    led = policy.tenants_with_role(person, "owner", "approver").filter(pk=volume.tenant_id)
    return led.exists() and left_behind(volume.tenant).filter(pk=volume.pk).exists()


def _in_pool(lease: Lease, pool_id: int) -> QuerySet[HomeVolume]:
    volumes = HomeVolume.objects.filter(tenant=lease.tenant_id, person=lease.owner_id, pool=pool_id)
    return volumes.exclude(state=HomeState.REMOVED).select_related("tenant")


def _create(lease: Lease, pool: StoragePool, *, now: datetime) -> HomeVolume:
    """Its key is born here; of two leases that begin at once, the database lets one make it."""
    number = uuid4()
    volume = HomeVolume.objects.create(
        pk=number,
        tenant=lease.tenant,
        person=lease.owner,
        pool=pool,
        size_gib=settings.HOME_GIB,
        state=HomeState.DETACHED,
        state_since=now,
        sealed_key=seal_storage_key(secrets.token_hex(32).encode(), number),
        created_at=now,
    )
    states = {"from": None, "to": HomeState.DETACHED, "event": "create"}
    facts = {"size_gib": volume.size_gib, "pool": str(pool)}
    _record(volume, "home.create", SYSTEM, at=now, now=now, **states, **facts)
    return volume


def change_state(
    volume: HomeVolume, event: HomeEvent, *, actor: Actor, at: datetime, now: datetime, **detail: Any
) -> None:
    """Along the table, or WrongState. The volume is locked."""
    before = HomeState(volume.state)
    after = TRANSITIONS.get((before, event))
    if after is None:
        words = _("The home volume is %(state)s; this cannot be done now.")
        raise WrongState(words % {"state": before.value})
    at = clamp(at, earliest=volume.state_since, latest=now)
    volume.state, volume.state_since = after, at
    volume.save(update_fields=["state", "state_since", "lease", "last_lease"])
    states = {"from": before, "to": after, "event": event}
    _record(volume, f"home.{event}", actor, at=at, now=now, **states, **detail)


def _record(
    volume: HomeVolume, action: str, actor: Actor, *, at: datetime, now: datetime, **detail: Any
) -> None:
    record(
        action=action,
        actor=actor,
        subject=goals.home_subject(volume),
        tenant=volume.tenant,
        behalf=volume.person,
        effective_at=at,
        now=now,
        person=volume.person.username,
        **detail,
    )
