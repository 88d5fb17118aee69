"""What makes connections to PostgreSQL cheaper than psycopg makes them by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import _queries
from psycopg._preparing import Prepare, PrepareManager
from psycopg.abc import Buffer
from psycopg.pq.abc import PGresult
from psycopg.types.datetime import TimestamptzLoader

# psycopg takes longer statements apart again each time, in case a program makes a new one each time.
_queries.MAX_CACHED_STATEMENT_LENGTH = 32 * 1024
_queries.MAX_CACHED_STATEMENT_PARAMS = 400
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


class MomentLoader(TimestamptzLoader):
    """Moments in UTC, as Django's own loader makes them, whose expressions take ten times as long."""

    # Django looks at it, to see whose loader this is.
    timezone = UTC

    def load(self, data: Buffer) -> datetime:
        try:
            found = datetime.fromisoformat(str(data, "ascii"))
        except ValueError:
            found = super().load(data)
        return found if found.tzinfo is UTC else found.astimezone(UTC)


def quicken(*, connection: BaseDatabaseWrapper, **_: Any) -> None:
    """To be called once a connection is there."""
    if connection.vendor == "postgresql":
        plans = Plans()
        plans.prepare_threshold = connection.connection.prepare_threshold
        connection.connection._prepared = plans
        connection.connection.adapters.register_loader("timestamptz", MomentLoader)
