"""The two health checks say what they know, and no more."""

from __future__ import annotations

import gc
from importlib import import_module, reload

import pytest
from django.db import connection
from django.test import Client

from leasing.guards import guards_of
from tools.servers import RedisServer


def test_alive_without_a_database() -> None:
    assert Client().get("/healthz").content == b"ok\n"


@pytest.mark.django_db
def test_ready_when_everything_answers(redis_server: RedisServer, settings: object) -> None:
    settings.BROKER_URL = redis_server.url  # type: ignore[attr-defined]
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)


@pytest.mark.django_db
def test_not_ready_without_a_broker_or_a_guard() -> None:
    guard = next(guard for guard in guards_of(connection) if guard.kind == "TRIGGER")
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER {guard.name}")
    answer = Client().get("/readyz")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert not checks["broker"]["ok"]
    assert guard.name in checks["guards"]["fault"]
    assert checks["database"]["ok"]
    assert checks["migrations"]["ok"]


@pytest.mark.django_db
@pytest.mark.parametrize("entry", ["portal.asgi", "portal.wsgi"])
def test_what_stays_is_spared_the_garbage_collector(entry: str) -> None:
    module = import_module(entry)
    gc.unfreeze()
    reload(module)
    assert gc.get_freeze_count() > 100_000
