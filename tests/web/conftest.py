"""Fixtures of the web's tests: a scene in a rolled-back database, and a whole site with its own file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import Client, override_settings

from leasing.models import Person
from tests.web.scenes import Scene

FAST_HASHES = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def fast_hashes() -> Iterator[None]:
    """Passwords are hashed slowly on purpose; tests that check none of it need not wait."""
    with override_settings(PASSWORD_HASHERS=FAST_HASHES):
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file, so that threads share it, on SQLite."""
    from django.conf import settings

    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3") and not os.environ.get("LEASEHOLD_TEST_SQLITE"):
        database["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(autouse=True)
def no_broker(settings: object, tmp_path: Path) -> None:
    """Nobody listens: the control worker cannot be woken, which must not matter to a page."""
    settings.BROKER_URL = f"redis+socket://{tmp_path}/none.sock"  # type: ignore[attr-defined]


@pytest.fixture
def scene(db: None) -> Scene:
    made = Scene()
    made.live_until_now()
    return made


@pytest.fixture
def as_person() -> object:
    """A client signed in as that person."""

    def sign_in(who: Person) -> Client:
        client = Client()
        client.force_login(who, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return sign_in
