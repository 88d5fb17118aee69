"""Notices to people: a row in the transaction that gives cause, an e-mail from the tick, some time later."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone, translation
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from leasing import hooks
from leasing.errors import NotVisible, Words
from leasing.models import Lease, Notification, Person
from leasing.notice_topics import topic_of
from leasing.reasons import Reason

log = logging.getLogger(__name__)

BATCH = 50
ATTEMPTS = 12
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=2)
SMTP_SECONDS = 10


def notify(
    *,
    recipient: Person,
    kind: str,
    subject: Words,
    body: Words | Reason,
    now: datetime,
    lease: Lease | None = None,
    link: str = "",
) -> Notification:
    """Write a notice. Lazily translated words come out in the recipient's language, times in their zone.

    `link` is where the recipient can do something about it: nothing is done by following it.
    """
    with (
        translation.override(recipient.language or settings.LANGUAGE_CODE),
        timezone.override(recipient.timezone),
    ):
        parts = [str(body), _describe(lease) if lease else "", link]
        chosen, topic = hooks.settings_of(recipient), topic_of(kind)
        made = Notification.objects.create(
            recipient=recipient,
            lease=lease,
            kind=kind,
            subject=" ".join(str(subject).split())[:200],
            body="\n\n".join(filter(None, parts)),
            created_at=now,
            next_send_at=now if recipient.email and topic in chosen.email else None,
        )
    if chosen.url and topic in chosen.webhook:
        hooks.queue_hook(made, now=now)
    return made


def notify_address(
    *,
    address: str,
    kind: str,
    subject: Words,
    body: Words,
    language: str,
    now: datetime,
    secret: bool = False,
) -> Notification:
    """The same for who has no account yet. A secret body is kept only until it is sent."""
    with translation.override(language or settings.LANGUAGE_CODE):
        return Notification.objects.create(
            address=address,
            kind=kind,
            subject=" ".join(str(subject).split())[:200],
            body=str(body),
            secret=secret,
            created_at=now,
            next_send_at=now,
        )


def notices_of(person: Person) -> QuerySet[Notification]:
    """The person's own, newest first."""
    return Notification.objects.filter(recipient=person).order_by("-created_at", "-pk")


def mark_read(*, person: Person, until: int, now: datetime) -> int:
    """Those up to the one with this number, as read now. Returns how many were not yet."""
    return notices_of(person).filter(pk__lte=until, read_at=None).order_by().update(read_at=now)


def mark_one(*, person: Person, number: int, read: bool, now: datetime) -> Notification:
    """As read, since the first time that it was; or as unread again. Raises NotVisible."""
    notice = notices_of(person).filter(pk=number).first()
    if notice is None:
        raise NotVisible(_("There is no such notice."))
    if read != (notice.read_at is not None):
        notice.read_at = now if read else None
        notice.save(update_fields=["read_at"])
    return notice


def send_due_notices(*, now: datetime) -> int:
    """Send what is due; a mail server that does not answer ends the round. Returns how many were sent."""
    sent = 0
    for _attempt in range(BATCH):
        notice = _claim(now)
        if notice is None:
            break
        try:
            _send(notice)
        except OSError as error:
            _note_failure(notice, error)
            if not isinstance(error, SMTPException):
                break
        else:
            Notification.objects.filter(pk=notice.pk).update(
                sent_at=now, next_send_at=None, error="", body="" if notice.secret else notice.body
            )
            sent += 1
    return sent


def _claim(now: datetime) -> Notification | None:
    """The next notice, with its next attempt already noted: a crash repeats a mail, it never loses one."""
    with transaction.atomic():
        due = Notification.objects.select_for_update(skip_locked=True, of=("self",)).select_related(
            "recipient"
        )
        notice = due.filter(next_send_at__lte=now).order_by("next_send_at", "id").first()
        if notice is not None:
            notice.attempts += 1
            notice.next_send_at = now + _pause(notice.attempts) if notice.attempts < ATTEMPTS else None
            notice.save(update_fields=["attempts", "next_send_at"])
    return notice


def _send(notice: Notification) -> None:
    connection = get_connection(timeout=SMTP_SECONDS)
    to = notice.address if notice.recipient is None else notice.recipient.email
    EmailMessage(notice.subject, notice.body, to=[to], connection=connection).send()


def _note_failure(notice: Notification, error: OSError) -> None:
    log.warning("Notice %s was not sent (attempt %s): %s", notice.pk, notice.attempts, error)
    Notification.objects.filter(pk=notice.pk).update(error=str(error)[:300])


def _pause(attempts: int) -> timedelta:
    return min(FIRST_PAUSE * (1 << (attempts - 1)), LONGEST_PAUSE)


def _describe(lease: Lease) -> str:
    return _("%(flavor)s for %(tenant)s, from %(start)s to %(end)s (%(zone)s)") % {
        "flavor": lease.flavor.name,
        "tenant": lease.tenant.name,
        "start": date_format(timezone.localtime(lease.starts_at), "DATETIME_FORMAT"),
        "end": date_format(timezone.localtime(lease.ends_at), "DATETIME_FORMAT"),
        "zone": timezone.get_current_timezone_name(),
    }
