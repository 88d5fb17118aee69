"""Whether the database still guards what it must: asked before serving, and by `manage.py check --deploy`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections

from leasing.guards import missing_guards


# Only with --deploy: otherwise `migrate`, which installs what is missing, would refuse to run.
@register(Tags.database, deploy=True)
def check_guards(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """One error for each guard that the database lacks."""
    return [
        Error(
            f"The database “{alias}” lacks the guard {name}.",
            hint="Run `manage.py migrate`: it installs what is missing.",
            id="leasing.E001",
        )
        for alias in databases or ()
        for name in missing_guards(connections[alias])
    ]


def require_guards() -> None:
    """Raise ImproperlyConfigured unless every guard is in place. Servers call it when they start."""
    if missing := missing_guards(connection):
        raise ImproperlyConfigured(
            f"The database lacks the guards {', '.join(missing)}. Run `manage.py migrate`: it installs them."
        )
