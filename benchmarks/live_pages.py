"""Hundreds of open pages on one portal process: what they cost, and how soon each hears of a change."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Permission
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection
from django.db.models import F

from leasing.actors import Actor
from leasing.ending import end_lease
from leasing.models import Lease, Person, Tenant, TenantPersonPermission
from tools.servers import free_port

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60.0
DAY = timedelta(days=1)
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(eq=False)
class Page:
    """An open stream; `heard` has when it was told of each lease."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heard: dict[str, float] = field(default_factory=dict)

    async def listen(self) -> None:
        while line := await self.reader.readline():
            if line.startswith(b"data: ") and len(line) > len(b'data: ""\r\n'):
                self.heard[line.decode().strip().removeprefix("data: ").strip('"')] = time.monotonic()


def measure(dsn: str, *, pages: int, changes: int, idle_seconds: float, now: datetime) -> dict[str, Any]:
    """Every page is that of an approver of one team, so each change of a lease there concerns all of them.

    The portal's clock is the true one: the leases are moved to where they stand to it as they do to `now`.
    """
    later = datetime.now(now.tzinfo) - now
    Lease.objects.update(starts_at=F("starts_at") + later, ends_at=F("ends_at") + later)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    team = Tenant.objects.order_by("slug")[0]
    cookies = [_session(person) for person in _approvers(team, pages)]
    ahead = Lease.objects.filter(tenant=team, state="scheduled", starts_at__gt=now + later + DAY)
    leases = list(ahead.select_related("owner")[:changes])
    # What it has asked is counted once it is gone.
    connection.close()
    with _portal(dsn) as (process, port):
        return asyncio.run(_measured(process.pid, port, cookies, leases, idle_seconds))


async def _measured(
    pid: int, port: int, cookies: list[str], leases: list[Lease], idle_seconds: float
) -> dict[str, Any]:
    # Of a look a second each moment between two is as likely; right after one would be the slowest.
    waits = [(number + 0.5) / len(leases) for number in range(len(leases))]
    async with AsyncExitStack() as open_pages:
        one = [await _open(port, cookies[0], open_pages)]
        alone = await _idle(pid, idle_seconds)
        began = time.monotonic()
        rest = await asyncio.gather(*(_open(port, cookie, open_pages) for cookie in cookies[1:]))
        opened = time.monotonic() - began
        together = await _idle(pid, idle_seconds)
        delays = [
            await _change([*one, *rest], lease, after) for lease, after in zip(leases, waits, strict=True)
        ]
    all_delays = [delay for one in delays for delay in one]
    return {
        "pages": len(cookies),
        "opening_all_s": round(opened, 1),
        "idle_with_one_page": alone,
        "idle_with_all": together,
        "commit_to_event_ms": {
            "median": round(median(all_delays) * 1000),
            "p95": round(quantiles(all_delays, n=20)[-1] * 1000),
            "most": round(max(all_delays) * 1000),
        },
    }


async def _change(pages: Sequence[Page], lease: Lease, after: float) -> list[float]:
    """Cancel a lease in a while; seconds from its commit until each page has heard of it."""
    await asyncio.sleep(after)
    await sync_to_async(_cancel)(lease)
    committed, subject = time.monotonic(), str(lease.pk)
    while not all(subject in page.heard for page in pages):
        if time.monotonic() - committed > PATIENCE:
            raise RuntimeError("not every page was told")
        await asyncio.sleep(0.01)
    return [page.heard[subject] - committed for page in pages]


def _cancel(lease: Lease) -> None:
    now = datetime.now(lease.starts_at.tzinfo)
    end_lease(actor=Actor.of_person(lease.owner), lease_id=lease.pk, now=now)


async def _open(port: int, cookie: str, open_pages: AsyncExitStack) -> Page:
    """A home page's stream, once it has said hello."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    open_pages.callback(writer.close)
    head = (
        f"GET /events/ HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {settings.SESSION_COOKIE_NAME}={cookie}\r\n\r\n"
    )
    writer.write(head.encode())
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"the stream answers {status!r}")
    while b"hello" not in await reader.readline():
        pass
    page = Page(reader, writer)
    listening = asyncio.create_task(page.listen())
    open_pages.callback(listening.cancel)
    return page


async def _idle(pid: int, seconds: float) -> dict[str, Any]:
    """Of the portal's process while nothing happens."""
    await asyncio.sleep(2)
    busy, asked = _busy_seconds(pid), await sync_to_async(_transactions)()
    await asyncio.sleep(seconds)
    spent, asked_since = _busy_seconds(pid) - busy, await sync_to_async(_transactions)() - asked
    facts = _status(pid)
    return {
        "mib_resident": int(facts["VmRSS"].split()[0]) // 1024,
        "threads": int(facts["Threads"]),
        "processor_ms_per_s": round(1000 * spent / seconds, 1),
        "statements_per_s": round(asked_since / seconds, 1),
        "database_connections": await sync_to_async(_connections)(),
    }


def _busy_seconds(pid: int) -> float:
    spent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(spent[11]) + int(spent[12])) / TICKS


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _transactions() -> int:
    """Of the whole database: outside of transactions each statement is one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database")
        return int(cursor.fetchone()[0])


def _connections() -> int:
    """To the database, but for this one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'")
        return int(cursor.fetchone()[0])


def _approvers(team: Tenant, count: int) -> list[Person]:
    people = list(
        Person.objects.filter(is_active=True, username__startswith="p").order_by("username")[:count]
    )
    approver = Permission.objects.get(content_type__app_label="leasing", codename="approver")
    TenantPersonPermission.objects.bulk_create(
        TenantPersonPermission(user=person, content_object=team, permission=approver) for person in people
    )
    return people


def _session(person: Person) -> str:
    session = SessionStore()
    session[SESSION_KEY] = str(person.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = person.get_session_auth_hash()
    session.create()
    return str(session.session_key)


@contextmanager
def _portal(dsn: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """As docs/operating.md has it: one process for pages, streams and consoles."""
    port = free_port()
    environment = os.environ | {"LEASEHOLD_DATABASE": dsn, "LEASEHOLD_SECRET_KEY": settings.SECRET_KEY}
    command = [sys.executable, "-m", "uvicorn", "portal.asgi:application", "--port", str(port)]
    command += ["--ws", "websockets-sansio", "--no-proxy-headers", "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        _wait_until(lambda: _answers(port))
        yield process, port
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError("the portal did not start")
        time.sleep(0.1)
