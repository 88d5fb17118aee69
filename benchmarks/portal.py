"""How fast pages are in a large portal, what a first visit loads, and live pages by the hundred.

    python -m benchmarks.portal [--quick] [--json]

It starts a private PostgreSQL and fills it with a fleet. Server time is that of the whole request, middleware
and templates included, in one process that is set up as the portal's are; what a browser does with it is not
in it. Processor time is that of this process and of the database's beside it: others at work change it less.

Then a real portal process (uvicorn) has many pages open, each of an approver of one team, so that each of the
changes that are made to its leases concerns all of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import platform
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from tools.servers import postgres_server  # noqa: E402 - also a plain script


@dataclass(frozen=True)
class Plan:
    """How large, how often each page is opened, each time by somebody else, and how many stay open."""

    gpus: int
    holds: int
    people: int
    visits: int
    open_pages: int
    changes: int
    idle_seconds: float


QUICK = Plan(gpus=80, holds=800, people=200, visits=10, open_pages=50, changes=2, idle_seconds=3)
FULL = Plan(gpus=10_000, holds=220_000, people=5_000, visits=100, open_pages=500, changes=10, idle_seconds=10)


def main() -> int:
    options = _options()
    plan = QUICK if options.quick else FULL
    with postgres_server(shared_buffers="2GB") as dsn:
        os.environ["LEASEHOLD_DATABASE"] = dsn
        os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"
        import django

        django.setup()
        found = {"machine": _machine(), "plan": vars(plan), **_measure(plan, dsn)}
    print(json.dumps(found, indent=None if options.json else 1))
    return 0


def _measure(plan: Plan, dsn: str) -> dict[str, Any]:
    from django.conf import settings
    from django.core.management import call_command

    from benchmarks.big_fleet import NOW, build
    from benchmarks.live_pages import measure
    from leasing.models import Lease
    from portal.settling import settle

    logging.getLogger("axes").setLevel(logging.WARNING)
    settings.ALLOWED_HOSTS = ["testserver"]
    call_command("migrate", verbosity=0)
    fleet = build(gpus=plan.gpus, holds=plan.holds, busy=0.7, people=plan.people)
    operator = _operator()
    now = NOW + timedelta(days=3)
    _begin(now)
    settle()
    dice = random.Random(7)
    pages: dict[str, Callable[[], tuple[Any, str]]] = {
        "home": lambda: (dice.choice(fleet.people), "/"),
        "booking": lambda: (dice.choice(fleet.people), "/book/"),
        "calendar": lambda: (dice.choice(fleet.people), "/calendar/"),
        "workstations": lambda: (dice.choice(fleet.people), "/workstations/"),
        "fleet": lambda: (operator, "/fleet/"),
    }
    with patch("django.utils.timezone.now", lambda: now):
        found = {
            "leases": Lease.objects.count(),
            "pages": {name: _page(visit, plan.visits) for name, visit in pages.items()},
        }
    live = measure(dsn, pages=plan.open_pages, changes=plan.changes, idle_seconds=plan.idle_seconds, now=now)
    return {**found, "live": live}


def _begin(now: Any) -> None:
    """What has begun by now runs, as its hosts would have said; and statistics as autovacuum makes them."""
    from django.db import connection

    from hosts.models import Gpu
    from leasing.models import Lease

    begun = Lease.objects.filter(starts_at__lte=now)
    running = begun.filter(ends_at__gt=now)
    Gpu.objects.filter(holds__lease__in=running).update(state="leased")
    running.update(state="active", active_at=now, machine="running")
    begun.filter(ends_at__lte=now).update(state="ended", outcome="completed")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def _operator() -> Any:
    from django.contrib.auth.models import Permission

    from leasing.models import Person

    person = Person.objects.create(username="operator", email="operator@example.org")
    person.user_permissions.add(Permission.objects.get(codename="operate_fleet"))
    return person


def _page(visit: Callable[[], tuple[Any, str]], visits: int) -> dict[str, Any]:
    """Milliseconds of server time, statements, and compressed bytes of the page and of all that it loads."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    seconds, busy = [], []
    for number in range(visits + 5):
        person, path = visit()
        client = _signed_in(person)
        began, worked = time.perf_counter(), _processor_seconds()
        response = client.get(path)
        took, worked = time.perf_counter() - began, _processor_seconds() - worked
        if response.status_code != 200:
            raise RuntimeError(f"{path} answers {response.status_code}")
        if number >= 5:
            seconds.append(took)
            busy.append(worked)
    with CaptureQueriesContext(connection) as captured:
        body = client.get(path).content
    statements = len(captured)
    size = sum(len(gzip.compress(part)) for part in (body, *_assets(body.decode())))
    return {
        "median_ms": round(median(seconds) * 1000, 1),
        "p95_ms": round(quantiles(seconds, n=20)[-1] * 1000, 1),
        "median_processor_ms": round(median(busy) * 1000, 1),
        "p95_processor_ms": round(quantiles(busy, n=20)[-1] * 1000, 1),
        "statements": statements,
        "page_kb": round(len(gzip.compress(body)) / 1000, 1),
        "first_visit_kb": round(size / 1000, 1),
    }


def _signed_in(person: Any) -> Any:
    """A client of the one portal: its middleware is made once, as in a server."""
    from django.test import Client

    client = Client()
    client.handler = _portal()
    client.force_login(person)
    return client


@cache
def _portal() -> Any:
    from django.test.client import ClientHandler

    handler = ClientHandler()
    handler.load_middleware()
    return handler


def _processor_seconds() -> float:
    """Of this process and of the database's that answers it; of the latter as the kernel says it."""
    from django.db import connection

    connection.ensure_connection()
    ran = Path(f"/proc/{connection.connection.info.backend_pid}/schedstat").read_text().split()[0]
    return time.process_time() + int(ran) / 1e9


def _assets(page: str) -> Iterator[bytes]:
    """The style sheets, scripts, fonts and pictures that a page names."""
    from django.contrib.staticfiles import finders

    for name in sorted(set(re.findall(r'(?:src|href)="/static/([^"?#]+)', page))):
        found = finders.find(name)
        if found is None:
            raise RuntimeError(f"{name} is not there")
        yield Path(found).read_bytes()


def _machine() -> str:
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, load {load}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small fleet, to see that it works")
    parser.add_argument("--json", action="store_true", help="on one line")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
