"""Answers that are files to keep."""

from __future__ import annotations

from django.http import HttpResponse


def attached(content: bytes | str, name: str, content_type: str) -> HttpResponse:
    """A file; `name` is one of ours, never a person's."""
    response = HttpResponse(content, content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
