"""Private servers for the tests that need them; the tests' own fixtures live beside the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tools import servers


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """The DSN of an empty PostgreSQL database: the one this run is on, or else a private cluster's."""
    chosen = os.environ.get("LEASEHOLD_DATABASE", "")
    if chosen.startswith("postgresql:"):
        yield chosen
    else:
        with servers.postgres_server() as dsn:
            yield dsn


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.RedisServer]:
    """A private Redis of version 6 or later, so with accounts; tests must choose their own key names."""
    with servers.redis_server() as server:
        yield server
