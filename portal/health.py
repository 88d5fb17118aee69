"""Is the process alive, and can it do its work? For load balancers and `make demo`."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from kombu import Connection
from kombu.exceptions import KombuError

from leasing.guards import missing_guards

BROKER_PATIENCE_SECONDS = 2


@require_safe
@never_cache
def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers; nothing else is asked."""
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """Every check with its fault, empty where it passes; 503 if any fails."""
    faults = {name: check() for name, check in CHECKS.items()}
    ready = not any(faults.values())
    checks = {name: {"ok": not fault, "fault": fault} for name, fault in faults.items()}
    return JsonResponse({"ready": ready, "checks": checks}, status=200 if ready else 503)


def database_fault() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return "The database does not answer."
    return ""


def migrations_fault() -> str:
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError:
        return "The database does not say which migrations it has."
    return f"{len(missing)} migrations are not applied: run `manage.py migrate`." if missing else ""


def guards_fault() -> str:
    try:
        missing = missing_guards(connection)
    except DatabaseError:
        return "The database does not say which guards it has."
    return f"Guards are missing: {', '.join(missing)}. Run `manage.py migrate`." if missing else ""


def broker_fault() -> str:
    try:
        with Connection(settings.BROKER_URL, connect_timeout=BROKER_PATIENCE_SECONDS) as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_PATIENCE_SECONDS)
    except (KombuError, OSError):
        return "The broker does not answer; work waits until it does."
    return ""


CHECKS: dict[str, Callable[[], str]] = {
    "database": database_fault,
    "migrations": migrations_fault,
    "guards": guards_fault,
    "broker": broker_fault,
}
