"""Django's system checks of the domain: run with `manage.py check --database default` and before serving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections

from leasing.guards import missing_guards


@register(Tags.database)
def check_guards(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Every guard of the database is in place."""
    return [
        Error(
            f"The database “{alias}” lacks the guard {name}.",
            hint="Run `manage.py migrate`: it installs what is missing.",
            id="leasing.E001",
        )
        for alias in databases or ()
        for name in missing_guards(connections[alias])
    ]
