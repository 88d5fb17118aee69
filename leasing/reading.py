"""Files of a home volume without a GPU: its person looks into it, and takes files out, while no lease has it.

A host of its pool reads it and dials the gateway, which passes everything on. A lease that is due comes
first: the reading ends at once. The volume's row is locked before the reading's.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from hosts.models import Host
from hosts.protocol.homes import HomePath, ReadHome, Wanted
from hosts.protocol.signing import seal
from leasing import goals, outbox
from leasing.actors import SYSTEM, Actor
from leasing.console import digest
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.homes import change_state, fetch_volume, left_behind
from leasing.keys import open_storage_key
from leasing.locking import locked
from leasing.models import EmergencyStop, HomeReading, HomeVolume, Lease, OutboxMessage, Person
from leasing.reasons import because
from leasing.states.home import HomeEvent, HomeState
from leasing.timing import TICKET_LIFETIME
from leasing.transactions import atomically

# How long a list can be looked at, and a download be started.
SHOWN = timedelta(minutes=10)
# A host that is not heard of that long after its connection has ended will not say any more that it has.
REPORT_PATIENCE = timedelta(minutes=5)
LONGEST = timedelta(hours=3)
KEPT = timedelta(days=1)


def may_be_read(volume: HomeVolume) -> bool:
    """Whether there is something on it that no workstation has, and a host that can look."""
    is_free = volume.state in (HomeState.DETACHED, HomeState.READING)
    return is_free and volume.made_at is not None and readers(volume).exists()


def readers(volume: HomeVolume) -> QuerySet[Host]:
    """Hosts that can look into it, and are not stopped in an emergency."""
    hosts = Host.objects.filter(pool=volume.pool_id, retired_at=None, reads_homes=True)
    return hosts.exclude(pk__in=_stopped_hosts())


@atomically
def read_home(
    *, actor: Actor, volume_id: UUID, wanted: str, path: str, session_key: str, now: datetime
) -> HomeReading:
    """Order it to be read. What is found is for this browser session, or this API token, alone.

    Raises NotVisible, InvalidRequest, or WrongState while somebody else has it.
    """
    if actor.person is None:
        raise TypeError("only a person reads a home volume")
    known = _own(actor.person, volume_id)
    volume = locked(HomeVolume.objects.select_related("tenant", "person", "pool")).get(pk=known.pk)
    _check(volume, wanted, path)
    host = readers(volume).order_by("-last_seen_at").first()
    if host is None:
        raise WrongState(
            _("No host can look into this home volume without a workstation."),
            hint=_("Book a workstation with it; its files are there."),
        )
    token = secrets.token_urlsafe(32)
    reading = HomeReading.objects.create(
        volume=volume,
        person=actor.person,
        host=host,
        wanted=wanted,
        path=path,
        session_key=digest(session_key),
        token_sha256=digest(token),
        created_at=now,
        expires_at=now + TICKET_LIFETIME,
    )
    change_state(volume, HomeEvent.READ, actor=actor, at=now, now=now, reading=str(reading.pk), wanted=wanted)
    volume.generation += 1
    volume.save(update_fields=["generation"])
    outbox.queue_command(
        host=host,
        subject=goals.home_subject(volume),
        generation=volume.generation,
        goal=_goal(reading, volume, host, token),
        now=now,
        deadline=TICKET_LIFETIME,
    )
    return reading


def fetch_reading(person: Person, reading_id: UUID) -> HomeReading:
    """One of the person's own. Raises NotVisible."""
    readings = HomeReading.objects.select_related("volume__pool", "volume__tenant")
    reading = readings.filter(pk=reading_id).first()
    if reading is None or reading.person_id != person.pk:
        raise NotVisible(_("There is no such home volume."))
    return reading


def admit_host(*, reading_id: UUID, token: str, now: datetime) -> HomeReading | None:
    """The reading that the host's token opens, once."""
    readings = HomeReading.objects.filter(
        pk=reading_id, token_sha256=digest(token), expires_at__gt=now, ended_at=None, wanted_back_at=None
    )
    if not readings.filter(token_used_at=None).update(token_used_at=now):
        return None
    return readings.first()


def admit_browser(*, reading_id: UUID, session_key: str, now: datetime) -> HomeReading | None:
    """The download that this session asked for, once; it may be over already."""
    readings = HomeReading.objects.filter(
        pk=reading_id, session_key=digest(session_key), expires_at__gt=now
    ).exclude(wanted=HomeReading.Wanted.LIST)
    if not readings.filter(taken_at=None).update(taken_at=now):
        return None
    return readings.select_related("volume").first()


def still_wanted(reading_id: UUID) -> bool:
    """Whether what is being read may go on: no lease wants the volume, its person may have it, and nothing
    is stopped in an emergency.
    """
    readings = HomeReading.objects.filter(pk=reading_id, ended_at=None, wanted_back_at=None)
    readings = readings.filter(volume__tenant__no_machines_since=None).exclude(host__in=_stopped_hosts())
    reading = readings.select_related("volume__tenant", "person").first()
    return reading is not None and _is_in_reach(reading.person, reading.volume)


def keep_listing(*, reading_id: UUID, listing: dict[str, Any], clean: bool) -> None:
    HomeReading.objects.filter(pk=reading_id, ended_at=None).update(listing=listing, was_clean=clean)


def note_closed(*, reading_id: UUID, now: datetime) -> None:
    """The host's connection has ended."""
    HomeReading.objects.filter(pk=reading_id, ended_at=None, closed_at=None).update(closed_at=now)


def note_read(host: Host, reading_id: UUID, reason: str, *, at: datetime, now: datetime) -> bool:
    """The host says that it is over; False if it was not, or was over before."""
    reading = HomeReading.objects.filter(pk=reading_id, host=host, ended_at=None).first()
    if reading is None:
        return False
    _end(reading, reason, actor=Actor.of_host(host), at=at, now=now)
    return True


def note_refused(host: Host, message: OutboxMessage, reason: str, *, at: datetime, now: datetime) -> None:
    """The host does not even begin."""
    order = msgspec.json.decode(message.goal, type=ReadHome)
    note_read(host, order.reading_id, reason, at=at, now=now)


def want_back(lease: Lease, *, now: datetime) -> None:
    """A lease is due that is to have the volume: whatever is being read of it ends."""
    open_ones = HomeReading.objects.filter(ended_at=None, wanted_back_at=None)
    its = open_ones.filter(volume__tenant=lease.tenant_id, volume__person=lease.owner_id)
    its.update(wanted_back_at=now)


def stale(now: datetime) -> QuerySet[HomeReading]:
    """Readings of whose end no host will tell: it did not dial in time, or is gone."""
    unheard = Q(token_used_at=None, expires_at__lte=now)
    left = Q(closed_at__lte=now - REPORT_PATIENCE) | Q(created_at__lte=now - LONGEST)
    return HomeReading.objects.filter(unheard | left, ended_at=None).select_related("host")


def give_up(reading: HomeReading, *, now: datetime) -> None:
    """Nobody reads it any more. Should its host still do, it refuses the volume to others by itself."""
    _end(reading, because("host-silent", host=reading.host.name).in_english(), actor=SYSTEM, at=now, now=now)


def forget(now: datetime) -> None:
    """What was in a folder is nobody's business for long, nor what its files are called."""
    HomeReading.objects.filter(created_at__lte=now - SHOWN, listing__isnull=False).update(listing=None)
    HomeReading.objects.filter(ended_at__lte=now - KEPT).delete()


def _own(person: Person, volume_id: UUID) -> HomeVolume:
    """Whoever leads a team may remove what was left behind, and read nothing."""
    volume = fetch_volume(person, volume_id)
    if not _is_in_reach(person, volume):
        raise NotVisible(_("There is no such home volume."))
    return volume


def _is_in_reach(person: Person, volume: HomeVolume) -> bool:
    own = person.is_active and volume.person_id == person.pk
    return own and not left_behind(volume.tenant).filter(pk=volume.pk).exists()


def _check(volume: HomeVolume, wanted: str, path: str) -> None:
    if wanted not in HomeReading.Wanted.values:
        raise InvalidRequest(_("That cannot be done with files."), field="wanted")
    try:
        msgspec.convert(path, type=HomePath)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_("That is not the way to a file."), field="path") from error
    if volume.tenant.no_machines_since is not None:
        raise WrongState(
            _("The operators have stopped machines for now."), hint=_("Try again when they have lifted that.")
        )
    if volume.state == HomeState.READING:
        raise WrongState(_("It is being read just now."), hint=_("Wait until that is over, then try again."))
    if volume.state == HomeState.ATTACHED:
        raise WrongState(
            _("A workstation has this home volume."), hint=_("Its files are there, under your home folder.")
        )
    if volume.state != HomeState.DETACHED or volume.made_at is None:
        raise WrongState(_("There is nothing on this home volume."))


def _stopped_hosts() -> QuerySet[EmergencyStop, Any]:
    stops = EmergencyStop.objects.filter(scope=EmergencyStop.Scope.HOST, machines=True, lifted_at=None)
    return stops.values("host")


def _goal(reading: HomeReading, volume: HomeVolume, host: Host, token: str) -> ReadHome:
    key = open_storage_key(volume.sealed_key, volume.pk)
    return ReadHome(
        reading_id=reading.pk,
        volume_id=volume.pk,
        pool=volume.pool.name,
        sealed_key=seal(key, to_public_hex=host.sealing_key),
        wanted=msgspec.convert(reading.wanted, type=Wanted),
        path=reading.path,
        gateway_url=f"{settings.GATEWAY_URL}host-reading/{reading.pk}/",
        sealed_token=seal(token.encode(), to_public_hex=host.sealing_key),
    )


def _end(reading: HomeReading, reason: str, *, actor: Actor, at: datetime, now: datetime) -> None:
    volume = locked(HomeVolume.objects.select_related("tenant", "person")).get(pk=reading.volume_id)
    open_ones = locked(HomeReading.objects.filter(pk=reading.pk, ended_at=None))
    row = open_ones.first()
    if row is None:
        return
    row.ended_at, row.reason = now, reason
    row.save(update_fields=["ended_at", "reason"])
    outbox.answer_goal(
        subject=goals.home_subject(volume),
        generation=volume.generation,
        kinds=("read-home",),
        answer=reason or "read",
        now=now,
    )
    change_state(volume, HomeEvent.CLOSE, actor=actor, at=at, now=now, reading=str(row.pk), reason=reason)
