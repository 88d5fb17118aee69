"""Private PostgreSQL and Redis servers for tests and benchmarks: in a new folder each, gone afterwards.

Run as a program, it gives one command a PostgreSQL. It needs the standard library only.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 30
STOP_SECONDS = 20


class ServerError(RuntimeError):
    """A private server could not be started; the text says why and what to install."""


@dataclass(frozen=True)
class RedisServer:
    """A running Redis on loopback; its default account may do everything."""

    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextmanager
def postgres_server(**settings: str) -> Iterator[str]:
    """Start a cluster that listens on a unix socket only; yield the DSN of its empty database.

    `settings` go before those that tests run with, such as `fsync="on"`.
    """
    with private_folder("postgres") as folder:
        data = folder / "data"
        run_as_owner(postgres_program("initdb"), "-D", data, "-U", "leasehold", "-E", "UTF8", "-A", "trust",
                     "--locale=C.UTF-8", "--no-sync")  # fmt: skip
        command = [postgres_program("postgres"), "-D", data, "-k", folder, *settings_of_postgres(settings)]
        dsn = f"postgresql://leasehold@/postgres?host={folder}"
        with running(command, log=folder / "log", stop=signal.SIGINT) as process:
            ready = [postgres_program("pg_isready"), "-q", "-h", str(folder), "-d", "postgres"]
            wait_until(lambda: subprocess.run(ready).returncode == 0, process, folder / "log")
            yield dsn


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Start a Redis without persistence on a free loopback port."""
    with private_folder("redis") as folder:
        server = RedisServer(port=free_port())
        command = [program("redis-server"), "--port", server.port, "--bind", "127.0.0.1", "--dir", folder,
                   "--save", "", "--appendonly", "no"]  # fmt: skip
        with running(command, log=folder / "log", stop=signal.SIGTERM) as process:
            wait_until(lambda: answers(server.port), process, folder / "log")
            yield server


def settings_of_postgres(wanted: dict[str, str]) -> list[str]:
    """Speed before durability, unless otherwise wanted: the data is thrown away in any case."""
    settings = {
        "listen_addresses": "",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "shared_buffers": "128MB",
        "max_connections": "100",
        "timezone": "UTC",
        **wanted,
    }
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


@contextmanager
def private_folder(name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"leasehold-{name}-"))
    try:
        if owner := unprivileged():
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(command: list[object], *, log: Path, stop: signal.Signals) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server as its owner; it also stops when this process dies."""
    words = [*as_owner(), "setpriv", f"--pdeathsig={stop.name[3:]}", *map(str, command)]
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                                   start_new_session=True)  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerError(f"The server did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def run_as_owner(*command: object) -> None:
    done = subprocess.run([*as_owner(), *map(str, command)], capture_output=True, text=True, cwd="/")
    if done.returncode:
        raise ServerError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def as_owner() -> list[str]:
    """The words that drop root's rights: PostgreSQL refuses to run with them."""
    owner = unprivileged()
    return (
        ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"] if owner else []
    )


def unprivileged() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def program(name: str, *, path: str | None = None) -> str:
    if found := shutil.which(name, path=path):
        return found
    raise ServerError(f"{name} is not installed: run `tools/debian-packages test` as root.")


def postgres_program(name: str) -> str:
    """A program of the newest PostgreSQL on Debian, or else one on the path."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return program(name, path=str(versions[-1]) if versions else None)


def run_with_postgres(command: list[str]) -> int:
    with postgres_server() as dsn:
        return subprocess.call(command, env=os.environ | {"LEASEHOLD_DATABASE": dsn})


if __name__ == "__main__":
    sys.exit(run_with_postgres(sys.argv[1:]))
