"""Notices: rows first, mails later, never lost, never without end."""

from __future__ import annotations

from datetime import timedelta

from django.core.mail import EmailMessage
from django.utils.translation import gettext_lazy
from pytest_django import Settings

from leasing.models import Notification, Person
from leasing.notices import ATTEMPTS, LONGEST_PAUSE, notify, send_due_notices
from tests.domain.ground import NOW, Ground
from tests.domain.mail import NobodyThere

MINUTE = timedelta(minutes=1)


def write(recipient: Person, subject: str = "It runs") -> Notification:
    return notify(recipient=recipient, kind="test", subject=subject, body="See its page.", now=NOW)


def test_a_notice_is_a_row_until_the_tick_sends_it(ground: Ground, mailoutbox: list[EmailMessage]) -> None:
    notice = write(ground.person)
    assert mailoutbox == []
    assert send_due_notices(now=NOW) == 1
    assert send_due_notices(now=NOW + timedelta(days=1)) == 0
    (mail,) = mailoutbox
    assert (mail.to, mail.subject, mail.body) == (["ada@example.org"], "It runs", "See its page.")
    notice.refresh_from_db()
    assert (notice.sent_at, notice.next_send_at, notice.attempts) == (NOW, None, 1)


def test_it_is_written_in_the_language_and_zone_of_its_reader(ground: Ground) -> None:
    ground.person.language, ground.person.timezone = "zh-hans", "Asia/Shanghai"
    notice = notify(
        recipient=ground.person,
        kind="test",
        subject=gettext_lazy("Yes"),
        body="-",
        now=NOW,
        lease=ground.lease(),
    )
    assert notice.subject == "是"
    assert "Asia/Shanghai" in notice.body
    assert "17:00" in notice.body


def test_a_subject_is_one_line(ground: Ground, mailoutbox: list[EmailMessage]) -> None:
    write(ground.person, subject="It runs\r\nBcc: eve@example.org" + "x" * 300)
    send_due_notices(now=NOW)
    assert mailoutbox[0].subject.startswith("It runs Bcc: eve@example.orgxx")
    assert len(mailoutbox[0].subject) == 200


def test_a_person_without_an_address_still_has_the_row(
    ground: Ground, mailoutbox: list[EmailMessage]
) -> None:
    ground.person.email = ""
    write(ground.person)
    assert send_due_notices(now=NOW) == 0
    assert Notification.objects.get().sent_at is None


def test_a_refused_recipient_does_not_hold_up_the_others(
    ground: Ground, settings: Settings, mailoutbox: list[EmailMessage]
) -> None:
    settings.EMAIL_BACKEND = "tests.domain.mail.PickyServer"
    nobody = Person.objects.create(username="nobody", email="nobody@example.org")
    refused = write(nobody)
    write(ground.person)
    assert send_due_notices(now=NOW) == 1
    assert [mail.to for mail in mailoutbox] == [["ada@example.org"]]
    refused.refresh_from_db()
    assert "no such user" in refused.error
    assert refused.next_send_at == NOW + MINUTE


def test_a_dead_server_ends_the_round_and_is_tried_later_and_later(
    ground: Ground, settings: Settings
) -> None:
    settings.EMAIL_BACKEND = "tests.domain.mail.NobodyThere"
    NobodyThere.tried = 0
    notice, _ = write(ground.person), write(ground.person)
    assert send_due_notices(now=NOW) == 0
    assert NobodyThere.tried == 1
    notice.refresh_from_db()
    assert (notice.attempts, notice.next_send_at, notice.error) == (1, NOW + MINUTE, "nobody listens")


def test_attempts_are_bounded_and_their_pauses_grow(ground: Ground, settings: Settings) -> None:
    settings.EMAIL_BACKEND = "tests.domain.mail.NobodyThere"
    notice = write(ground.person)
    pauses, now = [], NOW
    while (due := Notification.objects.get().next_send_at) is not None:
        pauses.append(due - now)
        now = due
        send_due_notices(now=now)
    assert len(pauses) == ATTEMPTS
    assert pauses[:4] == [timedelta(0), MINUTE, 2 * MINUTE, 4 * MINUTE]
    assert max(pauses) == LONGEST_PAUSE
    notice.refresh_from_db()
    assert notice.sent_at is None


def test_a_mail_that_failed_is_sent_when_the_server_is_back(
    ground: Ground, settings: Settings, mailoutbox: list[EmailMessage]
) -> None:
    usual, settings.EMAIL_BACKEND = settings.EMAIL_BACKEND, "tests.domain.mail.NobodyThere"
    notice = write(ground.person)
    send_due_notices(now=NOW)
    settings.EMAIL_BACKEND = usual
    assert send_due_notices(now=NOW) == 0
    assert send_due_notices(now=NOW + MINUTE) == 1
    notice.refresh_from_db()
    assert (notice.sent_at, notice.error) == (NOW + MINUTE, "")
