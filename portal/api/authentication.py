"""`Authorization: Token …`, checked for shape before the database is asked."""

from __future__ import annotations

import re
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from knox.auth import TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from leasing.audit.log import record_sparingly
from portal.middleware import stranger_of

TOKEN = re.compile(rb"[A-Za-z0-9]{20,200}")


class ApiTokenAuthentication(TokenAuthentication):  # type: ignore[misc]
    def authenticate(self, request: Request) -> Any:
        """A token that is none, or is none any more, is recorded, within measure."""
        try:
            return super().authenticate(request)
        except AuthenticationFailed:
            record_sparingly(
                action="token.refuse",
                actor=stranger_of(request._request),
                subject="token:unknown",
                now=timezone.now(),
            )
            raise

    def authenticate_credentials(self, token: bytes) -> Any:
        if not TOKEN.fullmatch(token):
            raise AuthenticationFailed(_("This is not a token."))
        return super().authenticate_credentials(token)
