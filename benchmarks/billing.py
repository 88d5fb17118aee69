"""A million usage lines in PostgreSQL: exports beside a bare COPY, the audit log's pace, closing the month.

    python -m benchmarks.billing [--quick] [--json] [--lines N]

It starts a private PostgreSQL that keeps what it commits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from benchmarks.booking import DURABLE, _apart, _django, _machine  # noqa: E402 - also a plain script
from tools.servers import postgres_server  # noqa: E402

FULL, QUICK, FEW = 1_000_000, 20_000, 1_000
SEGMENTS_PER_LEASE = 10
ROUNDS = 3
SEALING_SECONDS = 1.0
FORMS = ("csv", "parquet", "focus-csv", "xlsx")


def main() -> int:
    options = _options()
    lines = options.lines or (QUICK if options.quick else FULL)
    entries = max(500, lines // 200)
    figures: dict[str, Any] = {"machine": _machine(), "lines": lines}
    with tempfile.TemporaryDirectory() as folder, postgres_server(**DURABLE) as dsn:
        os.environ["LEASEHOLD_VAR"] = folder
        steps: list[tuple[str, Callable[..., dict[str, Any]], tuple[Any, ...]]] = [
            ("build", _build, (lines,)),
            ("csv_beside_copy", _csv_beside_copy, ()),
            *((f"{form}_of_{count}", _export, (form, count)) for form in FORMS for count in (FEW, lines)),
            ("audit", _audit, (entries,)),
            ("close", _close, ()),
        ]
        for name, work, arguments in steps:
            # A process of its own, so that its peak of memory is its own.
            figures[name] = _apart(work, dsn, *arguments)
            if not options.json:
                print(json.dumps({name: figures[name]}), flush=True)
    print(json.dumps({**figures, "machine_afterwards": _machine()}))
    return 0


def _build(dsn: str, lines: int) -> dict[str, Any]:
    """Leases that have ended, each with adjoining segments at several rates, in the month before."""
    _django(dsn)
    from django.core.management import call_command

    from benchmarks.big_fleet import NOW, _lease, _Rows, build
    from leasing.models import Tenant, UsageSegment

    call_command("migrate", verbosity=0)
    began = time.monotonic()
    fleet = build(gpus=80, holds=0, busy=1.0)
    # The teams' months are those of UTC.
    assert set(Tenant.objects.values_list("timezone", flat=True)) == {"UTC"}
    start = NOW.replace(day=1, hour=0) - timedelta(days=28)
    first = _lease(fleet)
    first.state, first.outcome, first.active_at = "ended", "completed", start
    leases = _Rows(first)
    segments = _Rows(
        UsageSegment(
            tenant=fleet.tenants[0],
            lease_id=uuid4(),
            person=fleet.people[0],
            starts_at=start,
            rate_per_hour=Decimal(3),
            currency="EUR",
        )
    )
    for number in range(lines // SEGMENTS_PER_LEASE):
        lease, place = uuid4(), number % len(fleet.tenants)
        begins = start + timedelta(seconds=number * 7 % (20 * 86400))
        edges = [
            begins + timedelta(minutes=61 * n, seconds=number % 60) for n in range(SEGMENTS_PER_LEASE + 1)
        ]
        owner = {"tenant_id": fleet.tenants[place].pk, "owner_id": fleet.people[place].pk}
        window = {"starts_at": edges[0], "ends_at": edges[-1], "stopped_at": edges[-1]}
        leases.add(id=lease, flavor_id=fleet.flavors[(1, 4, 8)[number % 3]].pk, **owner, **window)
        for n in range(SEGMENTS_PER_LEASE):
            rate = Decimal(30_000 + number % 977 * 10 + n).scaleb(-4)
            span = {"starts_at": edges[n], "ends_at": edges[n + 1]}
            whose = {"tenant_id": owner["tenant_id"], "person_id": owner["owner_id"]}
            segments.add(lease_id=lease, **whose, **span, rate_per_hour=rate)
    leases.copy()
    segments.copy()
    _run("VACUUM ANALYZE")
    return {"seconds": round(time.monotonic() - began)}


def _close(dsn: str) -> dict[str, Any]:
    """The month of every team, one after the other, as platform finance closes it."""
    _django(dsn)
    from benchmarks.big_fleet import NOW
    from leasing.actors import SYSTEM
    from leasing.billing.closing import close_month
    from leasing.models import InvoiceLine, Tenant

    took = []
    for tenant in Tenant.objects.order_by("slug"):
        began = time.monotonic()
        close_month(actor=SYSTEM, tenant=tenant, name="2026-02", now=NOW)
        took.append(time.monotonic() - began)
    lines = InvoiceLine.objects.count()
    _run("VACUUM ANALYZE")
    return {
        "teams": len(took), "seconds": round(sum(took), 1), "lines": lines,
        "lines_per_second": round(lines / sum(took)), "peak_mib": _peak_mib(),
    }  # fmt: skip


def _csv_beside_copy(dsn: str) -> dict[str, Any]:
    """The export, and COPY of the same rows as they are in the tables, in turns."""
    _django(dsn)
    from django.db import connection
    from psycopg import ClientCursor

    from leasing.exports.lines import OF_SEGMENTS
    from leasing.models import UsageSegment

    rows = UsageSegment.objects.order_by("starts_at", "pk").values_list(*OF_SEGMENTS.values())
    connection.ensure_connection()
    statement = ClientCursor(connection.connection).mogrify(*rows.query.sql_with_params())
    seconds: dict[str, list[float]] = {"copy": [], "export": []}
    for _round in range(ROUNDS):
        began = time.monotonic()
        with connection.cursor() as cursor, cursor.copy(f"COPY ({statement}) TO STDOUT (FORMAT csv)") as out:
            copied = sum(1 for _row in out)
        seconds["copy"].append(time.monotonic() - began)
        began = time.monotonic()
        written = _drain(_pieces("csv", UsageSegment.objects.all()))
        seconds["export"].append(time.monotonic() - began)
    copy, export = (copied / median(seconds[name]) for name in ("copy", "export"))
    return {
        "rows": copied, "bytes": written, "copy_rows_per_second": round(copy),
        "export_rows_per_second": round(export), "ratio": round(export / copy, 2),
    }  # fmt: skip


def _export(dsn: str, form: str, count: int) -> dict[str, Any]:
    _django(dsn)
    from leasing.models import UsageSegment

    first = UsageSegment.objects.order_by("pk").values_list("pk", flat=True)[0]
    before = _peak_mib()
    began = time.monotonic()
    written = _drain(_pieces(form, UsageSegment.objects.filter(pk__lt=first + count)))
    seconds = time.monotonic() - began
    return {
        "seconds": round(seconds, 2), "rows_per_second": round(count / seconds),
        "mib": round(written / 2**20, 1), "peak_mib_before": before, "peak_mib": _peak_mib(),
    }  # fmt: skip


def _audit(dsn: str, entries: int) -> dict[str, Any]:
    """Entries, each in a transaction of its own, with a sealer beside it and without; then verification."""
    _django(dsn)
    from django.db import connection
    from django.utils import timezone

    from leasing.actors import SYSTEM
    from leasing.audit.log import record
    from leasing.audit.sealer import seal
    from leasing.audit.verifier import verify_log
    from leasing.models import AuditEntry

    def append() -> float:
        began = time.monotonic()
        for number in range(entries):
            record(
                action="lease.request", actor=SYSTEM, subject=f"lease:{number}", now=timezone.now(),
                owner="p007", flavor="x4", model="h100", rate_per_hour="3.0000", currency="EUR",
                limits=[{"kind": "gpus", "counted": "4", "limit": "100"}],
            )  # fmt: skip
        return entries / (time.monotonic() - began)

    rates: dict[str, list[float]] = {"off": [], "on": []}
    for _round in range(ROUNDS):
        rates["off"].append(append())
        with _sealer(dsn):
            rates["on"].append(append())
    while seal(timezone.now()):
        pass
    texts = [text.encode() for text in AuditEntry.objects.values_list("text", flat=True)]
    began = time.monotonic()
    for text in texts:
        hashlib.sha256(text).digest()
    bare = len(texts) / (time.monotonic() - began)
    began = time.monotonic()
    verdict = verify_log()
    verified = len(texts) / (time.monotonic() - began)
    assert not verdict.problems
    connection.close()
    off, on = median(rates["off"]), median(rates["on"])
    return {
        "appends_per_second_off": round(off), "appends_per_second_on": round(on), "ratio": round(on / off, 2),
        "entries": len(texts), "bytes_per_entry": round(sum(map(len, texts)) / len(texts)),
        "verified_per_second": round(verified), "sha256_per_second": round(bare),
        "verified_over_sha256": round(verified / bare, 3), "prove_ms": _prove(texts),
    }  # fmt: skip


def _prove(texts: list[bytes]) -> float:
    from leasing.audit.proofs import prove_entry
    from leasing.models import AuditLeaf

    middle = AuditLeaf.objects.values_list("entry_id", flat=True).get(index=len(texts) // 2)
    took = []
    for _round in range(20):
        began = time.monotonic()
        prove_entry(middle)
        took.append(time.monotonic() - began)
    return round(median(took) * 1000, 2)


class _sealer:  # noqa: N801 - used like a function
    """A process that seals each second, as the control worker does."""

    def __init__(self, dsn: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._ready = context.Event()
        self._process = context.Process(target=_seal, args=(dsn, self._stop, self._ready))

    def __enter__(self) -> None:
        self._process.start()
        self._ready.wait(60)

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._process.join()


def _seal(dsn: str, stop: Any, ready: Any) -> None:
    _django(dsn)
    from django.utils import timezone

    from leasing.audit.sealer import seal

    seal(timezone.now())
    ready.set()
    while not stop.wait(SEALING_SECONDS):
        seal(timezone.now())


def _pieces(form: str, segments: Any) -> Iterable[str | bytes]:
    from leasing.actors import SYSTEM
    from leasing.exports.export import export_usage
    from leasing.exports.filter import Billed, UsageFilter

    billed = Billed(segments, Billed.everything().credits)
    now = datetime.fromisoformat("2026-03-02T09:00Z")
    made = export_usage(actor=SYSTEM, billed=billed, chosen=UsageFilter(), form=form, now=now)
    return made.pieces()


def _drain(pieces: Iterable[str | bytes]) -> int:
    return sum(len(piece) for piece in pieces)


def _run(statement: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} lines, to see that it works")
    parser.add_argument("--lines", type=int, help="so many lines")
    parser.add_argument("--json", action="store_true", help="only the figures, as one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
