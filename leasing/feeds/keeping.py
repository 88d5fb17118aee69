"""Calendar feeds are made and revoked by their person, and read by whoever has the secret."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from leasing import policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.locking import locked
from leasing.models import CalendarFeed, Person

MOST_FEEDS = 10
LONGEST_NAME = 60
SECRET_BYTES = 32
# A read is noted at most so often: it is a write.
NOTED_EVERY = timedelta(minutes=5)


@dataclass(frozen=True)
class NewFeed:
    """`secret` cannot be shown again."""

    row: CalendarFeed
    secret: str


@transaction.atomic
def create_feed(*, actor: Actor, name: str, model_slug: str = "", now: datetime) -> NewFeed:
    """A feed of the person's own workstations or, with a model, of its calendar as they may see it."""
    person = _person(actor)
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidRequest(_("Give it a name of at most 60 characters."), field="name")
    model = policy.visible_models(person).filter(slug=model_slug).first()
    if model is None and model_slug:
        raise InvalidRequest(_("There is no such GPU model."), field="model")
    locked(Person.objects.all()).get(pk=person.pk)
    if CalendarFeed.objects.filter(person=person).count() >= MOST_FEEDS:
        raise WrongState(
            _("You have %(count)d calendar feeds already.") % {"count": MOST_FEEDS},
            hint=_("Revoke one that you do not use."),
        )
    secret = secrets.token_urlsafe(SECRET_BYTES)
    feed = CalendarFeed.objects.create(
        person=person, model=model, name=name, secret_sha256=_hashed(secret), created_at=now
    )
    record(action="feed.create", actor=actor, now=now, **_facts(feed))
    return NewFeed(feed, secret)


@transaction.atomic
def revoke_feed(*, actor: Actor, feed_id: UUID, now: datetime) -> None:
    """From now on its address leads nowhere."""
    feed = locked(CalendarFeed.objects.filter(person=_person(actor), pk=feed_id)).first()
    if feed is None:
        raise NotVisible(_("There is no such calendar feed."))
    record(action="feed.revoke", actor=actor, now=now, **_facts(feed))
    feed.delete()


def fetch_feed(secret: str, *, now: datetime) -> CalendarFeed:
    """The feed of a secret. NotVisible if there is none, or if its person may not see any of it now."""
    feeds = CalendarFeed.objects.select_related("person", "model")
    feed = feeds.filter(secret_sha256=_hashed(secret), person__is_active=True).first()
    if feed is None or not _may_read(feed):
        raise NotVisible(_("There is no such calendar feed."))
    lately = Q(last_read_at__gt=now - NOTED_EVERY)
    CalendarFeed.objects.filter(~lately | Q(last_read_at=None), pk=feed.pk).update(last_read_at=now)
    return feed


def _may_read(feed: CalendarFeed) -> bool:
    if feed.model_id is None:
        return True
    return policy.visible_models(feed.person).filter(pk=feed.model_id).exists()


def _facts(feed: CalendarFeed) -> dict[str, Any]:
    model = feed.model.slug if feed.model else None
    return {"subject": f"person:{feed.person_id}", "feed": str(feed.pk), "name": feed.name, "model": model}


def _person(actor: Actor) -> Person:
    if actor.person is None:
        raise TypeError("only a person has calendar feeds")
    return actor.person


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
