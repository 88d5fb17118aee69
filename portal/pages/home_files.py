"""Files of a home volume: looking into its folders, and taking files out, without a workstation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from leasing.models import HomeReading
from leasing.reading import fetch_reading, read_home
from portal.middleware import PersonRequest
from portal.pages.actions import action

Wanted = HomeReading.Wanted


class Found(NamedTuple):
    """A line of a folder. `at` None: its date is none that a calendar has."""

    name: str
    path: str
    kind: str
    size: int
    at: datetime | None


@action
def read(request: PersonRequest, volume_id: UUID) -> str:
    """The button that was pressed says what is wanted, and its value of what."""
    wanted = next((each for each in Wanted.values if each in request.POST), Wanted.LIST.value)
    reading = read_home(
        actor=request.actor,
        volume_id=volume_id,
        wanted=wanted,
        path=request.POST.get(wanted, ""),
        session_key=request.session.session_key or "",
        now=timezone.now(),
    )
    return reverse("home-reading", args=[reading.pk]) if wanted == Wanted.LIST else download_path(reading.pk)


@login_required
@require_safe
def reading(request: PersonRequest, reading_id: UUID) -> HttpResponse:
    return render(request, "storage/files.html", _shown(request, reading_id))


@login_required
@require_safe
def live(request: PersonRequest, reading_id: UUID) -> HttpResponse:
    return render(request, "storage/_files.html", _shown(request, reading_id))


def download_path(reading_id: UUID) -> str:
    """At the gateway, which meets the host there."""
    return f"/ws/reading/{reading_id}/"


def _shown(request: PersonRequest, reading_id: UUID) -> dict[str, Any]:
    one = fetch_reading(request.user, reading_id)
    listing = one.listing or {}
    names = one.path.split("/")[1:]
    return {
        "reading": one,
        "volume": one.volume,
        "crumbs": [(name, "/" + "/".join(names[: number + 1])) for number, name in enumerate(names)],
        "found": list(_found(one.path, listing)),
        "more": listing.get("more"),
        "unnamed": listing.get("unnamed"),
    }


def _found(folder: str, listing: dict[str, Any]) -> Iterator[Found]:
    for entry in listing.get("entries", ()):
        name = entry["name"]
        yield Found(name, f"{folder}/{name}", entry["kind"], entry["size"], _moment(entry["changed_at"]))


def _moment(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None
