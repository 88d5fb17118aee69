"""Calendar feeds as iCalendar (RFC 5545), at an address that is the only key to them.

All times are UTC: they are the same moment in every zone, whatever its clocks do.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.cache import get_conditional_response
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe
from icalendar import Calendar, Event

from leasing.addresses import of_lease
from leasing.errors import NotVisible
from leasing.feeds.entries import FeedEntries, LeaseEntry, PoolEntry, read_entries
from leasing.feeds.keeping import fetch_feed
from leasing.models import CalendarFeed
from leasing.states.lease import LeaseState
from portal.pages.looks import look_of_lease

READ_AGAIN_AFTER = timedelta(minutes=15)
TENTATIVE = frozenset({LeaseState.OFFERED, LeaseState.REQUESTED})


@require_safe
def feed(request: HttpRequest, secret: str) -> HttpResponseBase:
    """A feed, to whoever knows its secret; what is wrong or revoked is not there."""
    now = timezone.now()
    try:
        found = fetch_feed(secret, now=now)
    except NotVisible:
        return HttpResponse(status=404, content_type="text/plain", headers={"Cache-Control": "no-store"})
    language = found.person.language or settings.LANGUAGE_CODE
    with translation.override(language):
        body = written(found, read_entries(found, now=now))
    etag = f'"{sha256(body).hexdigest()}"'
    response = HttpResponse(
        body,
        content_type="text/calendar; charset=utf-8",
        headers={
            "Cache-Control": "private, no-cache",
            "Content-Disposition": 'inline; filename="leasehold.ics"',
            "Content-Language": language,
            "ETag": etag,
            "Referrer-Policy": "no-referrer",
        },
    )
    return get_conditional_response(request, etag=etag, response=response) or response


def address_of(secret: str) -> str:
    return settings.SITE_URL + reverse("feed", args=[secret])


def written(feed: CalendarFeed, entries: FeedEntries) -> bytes:
    """The feed in the active language."""
    calendar = Calendar()
    calendar.add("prodid", "-//Leasehold//Leasehold//EN")
    calendar.add("version", "2.0")
    calendar.add("calscale", "GREGORIAN")
    calendar.add("name", feed.name)
    calendar.add("x-wr-calname", feed.name)
    calendar.add("refresh-interval", READ_AGAIN_AFTER, parameters={"VALUE": "DURATION"})
    calendar.add("x-published-ttl", READ_AGAIN_AFTER)
    for event in _events(feed, entries):
        calendar.add_component(event)
    text: bytes = calendar.to_ical()
    return text


def _events(feed: CalendarFeed, entries: FeedEntries) -> Iterator[Event]:
    for lease in entries.leases:
        yield _of_lease(feed, lease)
    for taken in entries.pool:
        yield _of_pool(feed, taken)


def _of_lease(feed: CalendarFeed, entry: LeaseEntry) -> Event:
    lease = entry.lease
    state = str(look_of_lease(lease).word)
    # Some calendars take two events of one id for one, even in two calendars.
    uid = f"{lease.pk}@leasehold" if feed.model is None else f"pool-{lease.pk}@leasehold"
    who = "" if lease.owner_id == feed.person_id else f" · {lease.owner}"
    event = _event(uid, entry.starts_at, entry.ends_at, entry.changed_at)
    event.add("summary", f"{lease.flavor.name} · {lease.machine_name}{who}")
    event.add("description", f"{state}\n{lease.tenant.name}\n{of_lease(lease)}")
    event.add("url", of_lease(lease))
    event.add("status", "TENTATIVE" if lease.state in TENTATIVE else "CONFIRMED")
    event.add("sequence", entry.version)
    event.add("created", _second(lease.requested_at))
    event.add("last-modified", _second(entry.changed_at))
    return event


def _of_pool(feed: CalendarFeed, entry: PoolEntry) -> Event:
    kind = "maintenance" if entry.closed else "in-use"
    window = f"{entry.starts_at:%Y%m%dT%H%M}-{entry.ends_at:%Y%m%dT%H%M}"
    uid = f"{entry.model.slug}-{kind}-{window}-{entry.gpus}-of-{entry.of}@leasehold"
    event = _event(uid, entry.starts_at, entry.ends_at, feed.created_at)
    facts = {"model": entry.model.name, "gpus": entry.gpus, "of": entry.of, "free": entry.of - entry.gpus}
    if entry.closed:
        event.add("summary", _("%(model)s: maintenance, %(gpus)d of %(of)d") % facts)
    else:
        event.add("summary", _("%(model)s in use: %(free)d of %(of)d free") % facts)
    return event


def _event(uid: str, starts_at: datetime, ends_at: datetime, changed_at: datetime) -> Event:
    """Having a workstation does not keep a person busy."""
    event = Event()
    event.add("uid", uid)
    event.add("dtstart", starts_at.astimezone(UTC))
    event.add("dtend", ends_at.astimezone(UTC))
    event.add("dtstamp", _second(changed_at))
    event.add("transp", "TRANSPARENT")
    return event


def _second(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(microsecond=0)
