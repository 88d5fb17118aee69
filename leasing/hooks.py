"""How people hear of notices besides e-mail: what they choose, and requests to an address of theirs.

A request is signed with a secret that was shown once. It has to be known again for each request, so it is
kept sealed with a key that is derived from the portal's own: the database alone does not tell it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from nacl.encoding import HexEncoder
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, Words, WrongState
from leasing.hook_client import SECONDS, HookAnswer, HookRefused, check_url, post
from leasing.keys import portal_signing_key
from leasing.locking import locked
from leasing.models import HookDelivery, NoticeSettings, Notification, Person
from leasing.notice_topics import Topic, topic_of
from leasing.prepared import NOBODY
from leasing.reasons import filled
from leasing.transactions import atomically

ATTEMPTS = 8
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=2)
# At once, each to another person's address: nobody waits for somebody else's.
BATCH = 8
WAYS = ("email", "browser", "webhook")

CAUSES: dict[str, Words] = {
    "not-an-address": gettext_lazy("This is not an address, such as https://example.org/notices."),
    "not-https": gettext_lazy("The address has to begin with https://."),
    "more-than-an-address": gettext_lazy("The address may have no user name, no password and no “#”."),
    "no-such-name": gettext_lazy("The name of this address leads nowhere."),
    "private": gettext_lazy("%(address)s is not a public address: requests go to public ones only."),
    "certificate": gettext_lazy("Its certificate is not valid: %(why)s"),
    "too-late": gettext_lazy("It did not answer in time."),
    "no-answer": gettext_lazy("It did not answer."),
    "secret-lost": gettext_lazy("The secret cannot be read any more: make a new one."),
}


def words_of(refused: HookRefused) -> Words:
    return filled(CAUSES[refused.cause], **refused.facts) if refused.facts else CAUSES[refused.cause]


def settings_of(person: Person) -> NoticeSettings:
    """What was chosen; unsaved where nothing was."""
    found = NoticeSettings.objects.filter(person=person).first()
    return found or NoticeSettings(person=person, email=list(Topic))


@atomically
def choose_ways(*, actor: Actor, ways: Mapping[str, Collection[str]], now: datetime) -> NoticeSettings:
    """`ways` has the topics of each of WAYS. Raises InvalidRequest for others."""
    if set(ways) != {*WAYS} or not all(set(topics) <= {*Topic} for topics in ways.values()):
        raise InvalidRequest(_("There are no such notices."))
    row = _row(actor)
    for way, topics in ways.items():
        setattr(row, way, [topic.value for topic in Topic if topic in topics])
    row.save()
    _note("notices.choose", actor, now, **{way: getattr(row, way) for way in WAYS})
    return row


@atomically
def set_hook(*, actor: Actor, url: str, now: datetime) -> str:
    """Requests go to this address from now on. Returns the secret, which is not shown again."""
    url = url.strip()
    try:
        parts = check_url(url)
    except HookRefused as refused:
        raise InvalidRequest(str(words_of(refused)), field="url") from None
    secret = secrets.token_urlsafe(32)
    row = _row(actor)
    row.url, row.sealed_secret = url, _box().encrypt(secret.encode(), encoder=HexEncoder).decode()
    row.failures, row.quiet_until = 0, None
    row.webhook = row.webhook or [topic.value for topic in Topic]
    row.save()
    _note("notices.hook", actor, now, host=parts.hostname)
    return secret


@atomically
def remove_hook(*, actor: Actor, now: datetime) -> None:
    row = _row(actor)
    row.url, row.sealed_secret, row.failures, row.quiet_until = "", "", 0, None
    row.save()
    HookDelivery.objects.filter(notice__recipient=row.person, next_send_at__isnull=False).delete()
    _note("notices.hook-remove", actor, now)


def try_hook(*, actor: Actor, now: datetime) -> HookAnswer:
    """Send a test at once. Raises HookRefused if nothing came back, WrongState without an address."""
    row = settings_of(_person(actor))
    if not row.url:
        raise WrongState(_("There is no address yet."), hint=_("Save one first."))
    _note("notices.hook-try", actor, now)
    body = {"id": "test", "kind": "test", "topic": "test", "subject": _("A test from Leasehold"), "text": ""}
    return _post(row, body, now=now)


def queue_hook(notice: Notification, *, now: datetime) -> None:
    """The notice shall go to its recipient's address; in the transaction that writes it."""
    HookDelivery.objects.create(notice=notice, next_send_at=now)


def notices_for_browser(person: Person, *, after: int | None) -> tuple[int, list[Notification]]:
    """The newest number there is, and those after the one that are to be shown, at most ten."""
    mine = Notification.objects.filter(recipient=person)
    newest = mine.order_by("-pk").values_list("pk", flat=True).first() or 0
    if after is None or newest <= after:
        return newest, []
    wanted = set(settings_of(person).browser)
    news = mine.filter(pk__gt=after).order_by("-pk")[:10]
    return newest, [notice for notice in reversed(news) if topic_of(notice.kind) in wanted]


def send_due_hooks(*, now: datetime) -> int:
    """Send what is due, within seconds whatever is at the other end. Returns how many were taken."""
    claimed = _claim(now)
    if not claimed:
        return 0
    pool = ThreadPoolExecutor(BATCH, thread_name_prefix="hooks")
    sent: dict[Future[HookAnswer], tuple[HookDelivery, NoticeSettings]] = {}
    for delivery, row in claimed:
        sent[pool.submit(_post, row, _told(delivery.notice), now=now)] = (delivery, row)
    done = wait(sent, timeout=2 * SECONDS).done
    pool.shutdown(wait=False, cancel_futures=True)
    return sum(_note_answer(*sent[future], future if future in done else None, now=now) for future in sent)


@transaction.atomic
def _claim(now: datetime) -> list[tuple[HookDelivery, NoticeSettings]]:
    """One of each person, with its next attempt already noted: a crash repeats it, never loses it."""
    awake = Q(quiet_until=None) | Q(quiet_until__lte=now)
    rows = NoticeSettings.objects.filter(awake, url__gt="", person__is_active=True)
    due = _due(now).filter(notice__recipient__in=rows.values("person"))
    firsts: dict[UUID, HookDelivery] = {}
    for delivery in due.select_related("notice")[: 4 * BATCH]:
        firsts.setdefault(delivery.notice.recipient_id or NOBODY, delivery)
    chosen = dict(list(firsts.items())[:BATCH])
    known = {
        row.person_id: row for row in locked(rows.filter(person__in=list(chosen))).select_related("person")
    }
    for delivery in chosen.values():
        delivery.attempts += 1
        delivery.next_send_at = now + _pause(delivery.attempts) if delivery.attempts < ATTEMPTS else None
        delivery.save(update_fields=["attempts", "next_send_at"])
    return [(delivery, known[pk]) for pk, delivery in chosen.items() if pk in known]


def _due(now: datetime) -> QuerySet[HookDelivery]:
    return HookDelivery.objects.filter(next_send_at__lte=now).order_by("next_send_at", "pk")


def _note_answer(
    delivery: HookDelivery, row: NoticeSettings, answer: Future[HookAnswer] | None, *, now: datetime
) -> bool:
    taken = False
    try:
        if answer is None:
            raise HookRefused("too-late")
        said = answer.result()
        taken, words = said.is_taken, str(said.status)
    except HookRefused as refused:
        words = refused.cause
    if taken:
        HookDelivery.objects.filter(pk=delivery.pk).update(taken_at=now, next_send_at=None, answer=words)
        NoticeSettings.objects.filter(pk=row.pk).update(failures=0, quiet_until=None)
    else:
        HookDelivery.objects.filter(pk=delivery.pk).update(answer=words)
        failures = row.failures + 1
        NoticeSettings.objects.filter(pk=row.pk, url=row.url).update(
            failures=failures, quiet_until=now + _pause(failures)
        )
    return taken


def _told(notice: Notification) -> dict[str, object]:
    return {
        "id": str(notice.pk),
        "kind": notice.kind,
        "topic": topic_of(notice.kind).value,
        "subject": notice.subject,
        "text": notice.body,
        "lease": str(notice.lease_id) if notice.lease_id else None,
        "at": notice.created_at.isoformat(),
    }


def _post(row: NoticeSettings, told: Mapping[str, object], *, now: datetime) -> HookAnswer:
    try:
        secret = _box().decrypt(row.sealed_secret.encode(), encoder=HexEncoder)
    except (CryptoError, ValueError) as error:
        raise HookRefused("secret-lost") from error
    body = json.dumps(told, ensure_ascii=False).encode()
    at = int(now.timestamp())
    proof = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Leasehold",
        "Leasehold-Delivery": str(told["id"]),
        "Leasehold-Signature": f"t={at},v1={proof}",
    }
    return post(row.url, body, headers)


def _box() -> SecretBox:
    seed = bytes(portal_signing_key())
    return SecretBox(hashlib.blake2b(seed, digest_size=SecretBox.KEY_SIZE, person=b"lh webhooks").digest())


def _pause(attempts: int) -> timedelta:
    doublings: int = min(attempts - 1, 10)
    return min(FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE)


def _row(actor: Actor) -> NoticeSettings:
    """Locked, and there from now on."""
    person = _person(actor)
    NoticeSettings.objects.get_or_create(person=person, defaults={"email": list(Topic)})
    return locked(NoticeSettings.objects.select_related("person")).get(person=person)


def _person(actor: Actor) -> Person:
    if actor.person is None:
        raise TypeError("only a person has settings")
    return actor.person


def _note(action: str, actor: Actor, now: datetime, **facts: Any) -> None:
    record(action=action, actor=actor, subject=f"person:{_person(actor).pk}", now=now, **facts)
