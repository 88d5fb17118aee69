"""Mail servers that fail in the ways real ones do."""

from __future__ import annotations

from collections.abc import Sequence
from smtplib import SMTPRecipientsRefused

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.locmem import EmailBackend


class NobodyThere(BaseEmailBackend):
    """Every connection is refused; counts how often one was tried."""

    tried = 0

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        type(self).tried += 1
        raise ConnectionRefusedError("nobody listens")


class PickyServer(EmailBackend):
    """Takes mail for everybody but `nobody@example.org`."""

    def send_messages(self, messages: Sequence[EmailMessage]) -> int:
        if any("nobody@example.org" in message.to for message in messages):
            raise SMTPRecipientsRefused({"nobody@example.org": (550, b"no such user")})
        return super().send_messages(messages)
