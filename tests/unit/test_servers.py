"""The private servers of the tests: they answer, take nothing of the machine's, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tools import servers

DIES_SUDDENLY = """
import os
from tools.servers import postgres_server, redis_server
with postgres_server() as dsn, redis_server() as broker:
    print(dsn, broker.port, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_postgres_answers_and_is_gone_afterwards() -> None:
    with servers.postgres_server() as dsn:
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        folder = Path(dsn.rpartition("=")[2])
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_redis_has_accounts_and_is_gone_afterwards() -> None:
    with servers.redis_server() as server:
        client = redis.Redis.from_url(server.url)
        assert client.acl_whoami() == "default"
        client.close()
    assert not servers.answers(server.port)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that accounts other than root's may pass through."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def test_servers_die_with_the_process_that_started_them(open_folder: Path) -> None:
    variables = os.environ | {"TMPDIR": str(open_folder)}
    done = subprocess.run(
        [sys.executable, "-c", DIES_SUDDENLY], env=variables, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    dsn, port = done.stdout.split()
    deadline = time.monotonic() + servers.STOP_SECONDS
    while alive(dsn, int(port)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(dsn, int(port))


def alive(dsn: str, port: int) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return servers.answers(port)
    return True


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "settings_of_postgres", lambda _wanted: ["-c", "no_such_setting=1"])
    with pytest.raises(servers.ServerError, match="no_such_setting"), servers.postgres_server():
        pass


def test_a_missing_program_names_the_way_to_install_it() -> None:
    with pytest.raises(servers.ServerError, match="tools/debian-packages test"):
        servers.program("no-such-server", path=os.devnull)
