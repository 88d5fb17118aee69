"""Who may take part in a reading: the host with its token, and the browser or program that asked for it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils import timezone

from leasing import reading
from leasing.models import HomeReading
from portal.console.admission import Headers, bearer_token, credential_of
from portal.threads import in_database_thread


@in_database_thread
def admit_host(reading_id: UUID, headers: Headers) -> HomeReading | None:
    token = bearer_token(headers)
    if not token:
        return None
    return reading.admit_host(reading_id=reading_id, token=token, now=timezone.now())


@in_database_thread
def admit_browser(reading_id: UUID, headers: Headers) -> HomeReading | None:
    credential = credential_of(headers)
    if not credential:
        return None
    return reading.admit_browser(reading_id=reading_id, session_key=credential, now=timezone.now())


@in_database_thread
def still_wanted(reading_id: UUID) -> bool:
    return reading.still_wanted(reading_id)


@in_database_thread
def keep_listing(reading_id: UUID, listing: dict[str, Any], clean: bool) -> None:
    reading.keep_listing(reading_id=reading_id, listing=listing, clean=clean)


@in_database_thread
def note_closed(reading_id: UUID) -> None:
    reading.note_closed(reading_id=reading_id, now=timezone.now())
