"""Reads JSON bodies of bounded size, and refuses what only looks like JSON."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from django.utils.translation import gettext as _
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import JSONParser


class PayloadTooLarge(APIException):
    status_code = 413
    default_code = "too-large"

    def __init__(self, limit: int) -> None:
        super().__init__(_("The body is too large; at most %(limit)d bytes are taken.") % {"limit": limit})


class BoundedJSONParser(JSONParser):
    """At most DATA_UPLOAD_MAX_MEMORY_SIZE bytes, whatever length the client claims."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise PayloadTooLarge(limit)
        try:
            return super().parse(io.BytesIO(body), media_type, parser_context)
        except RecursionError:
            raise ParseError(_("The JSON is nested too deeply.")) from None
