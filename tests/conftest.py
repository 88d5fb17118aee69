"""What every test starts from: its own key and anchor, guards that yield to a flush, private servers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.db.backends.base.operations import BaseDatabaseOperations
from pytest_django import Settings

from tools import servers
from tools.pace import slowness


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A slow machine has more time for each test; what takes minutes anywhere is run when it is asked for."""
    usual = float(config.getini("timeout"))
    not_now = pytest.mark.skip(reason="takes minutes, and runs with --slow")
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("slow"):
            item.add_marker(not_now)
        mark = item.get_closest_marker("timeout")
        seconds = mark.args[0] if mark else usual
        item.add_marker(pytest.mark.timeout(seconds * slowness()), append=False)


@pytest.fixture(scope="session")
def signing_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("portal") / "portal.key"


@pytest.fixture(autouse=True)
def own_files(settings: Settings, tmp_path: Path, signing_key_file: Path) -> None:
    """No test touches the checkout's var/, nor anchors of a log that was rolled back with another test."""
    settings.SIGNING_KEY_FILE = signing_key_file
    settings.AUDIT_ANCHOR_FILE = tmp_path / "audit-anchors.jsonl"


@pytest.fixture(autouse=True)
def cheap_passwords(settings: Settings) -> None:
    """Real hashes are slow by design, and most tests make several people."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True, scope="session")
def guards_yield_to_flush() -> Iterator[None]:
    """Emptying a test database drops the guards of append-only tables first; post_migrate reinstalls them."""
    flush = BaseDatabaseOperations.execute_sql_flush

    def unguarded_flush(operations: BaseDatabaseOperations, sql_list: Sequence[str]) -> Any:
        from leasing.guards import guards_of

        connection = operations.connection
        on_table = " ON {table}" if connection.vendor == "postgresql" else ""
        drop = "DROP TRIGGER IF EXISTS {name}" + on_table
        triggers = (guard for guard in guards_of(connection) if guard.kind == "TRIGGER")
        drops = [drop.format(name=guard.name, table=guard.table) for guard in triggers]
        return flush(operations, [*drops, *sql_list])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseDatabaseOperations, "execute_sql_flush", unguarded_flush)
        yield


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
