"""What makes connections to PostgreSQL cheaper than psycopg makes them by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg._preparing import Prepare, PrepareManager
from psycopg.pq.abc import PGresult

_CHANGES_TABLES = re.compile(rb"^(?:DROP|ALTER|DISCARD ALL|DEALLOCATE ALL)\b").match


class Plans(PrepareManager):
    """The prepared statements of a connection, kept when a transaction is rolled back.

    psycopg forgets them then, in case what they refer to was made in that transaction. Here only migrations
    make and drop tables, and every refused booking is a rollback.
    """

    def clear(self) -> bool:
        """What a rollback asks for."""
        return False

    def _should_discard(self, prep: Prepare, results: Sequence[PGresult], *_: Any) -> bool:
        changed = any(_CHANGES_TABLES(result.command_status or b"") for result in results)
        return changed and super().clear()


def keep_plans(*, connection: BaseDatabaseWrapper, **_: Any) -> None:
    """To be called once a connection is there."""
    if connection.vendor == "postgresql":
        plans = Plans()
        plans.prepare_threshold = connection.connection.prepare_threshold
        connection.connection._prepared = plans
