"""Fixtures of the web's tests: a lived-in scene, clients for its people, and a whole site."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.cache import cache as counts
from django.test import Client
from django.test.client import ClientHandler
from playwright.sync_api import Browser, sync_playwright
from pytest_django import DjangoDbBlocker, Settings

from leasing.models import Person
from tests.web.browsing import CHROMIUM, CHROMIUM_FLAGS, Visits
from tests.web.scenes import Scene
from tests.web.site import Site, new_session, serving

FAST_HASHES = ["django.contrib.auth.hashers.MD5PasswordHasher"]

SignIn = Callable[[Person], Client]


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file, so that a site can have a copy of it."""
    if not os.environ.get("LEASEHOLD_TEST_SQLITE"):
        name = tmp_path_factory.mktemp("database") / "test.sqlite3"
        django_settings.DATABASES["default"]["TEST"]["NAME"] = str(name)


@pytest.fixture(scope="session", autouse=True)
def scene_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the scene's key and anchors are; and no broker, so that nothing moves unless a test moves it."""
    folder = tmp_path_factory.mktemp("scene")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(django_settings, "BROKER_URL", f"redis+socket://{folder}/none.sock")
        patch.setattr(django_settings, "SIGNING_KEY_FILE", folder / "portal.key")
        patch.setattr(django_settings, "AUDIT_ANCHOR_FILE", folder / "anchors.jsonl")
        patch.setattr(django_settings, "PASSWORD_HASHERS", FAST_HASHES)
        yield folder


@pytest.fixture(autouse=True)
def own_files(settings: Settings, scene_files: Path, tmp_path: Path) -> None:
    """The scene's key, and a copy of its anchors: what a test seals goes with the test."""
    settings.AUDIT_ANCHOR_FILE = tmp_path / "anchors.jsonl"
    settings.IMAGE_STORE = tmp_path / "image-store"
    if (scene_files / "anchors.jsonl").exists():
        shutil.copy(scene_files / "anchors.jsonl", settings.AUDIT_ANCHOR_FILE)


@pytest.fixture(autouse=True)
def nobody_has_asked_yet() -> None:
    """What is counted against too many requests starts anew with each test."""
    counts.clear()


@pytest.fixture(scope="session")
def built_scene(scene_files: Path, django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Scene:
    """Built once and committed; tests see it and undo what they do."""
    with django_db_blocker.unblock():
        scene = Scene()
        scene.live_until_now()
        return scene


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The real browser. Its driver keeps an event loop, which Django would otherwise take for ours."""
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as driver:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visits(chromium: Browser, site: Site) -> Iterator[Visits]:
    """Opens the site as somebody; at the end, no page may have complained."""
    made = Visits(chromium, site)
    yield made
    made.leave()


@pytest.fixture
def scene(built_scene: Scene, db: None) -> Scene:
    return copy.deepcopy(built_scene)


@pytest.fixture
def sign_in() -> SignIn:
    """Makes a client signed in as that person."""

    def client_of(person: Person) -> Client:
        client = new_client()
        client.cookies[django_settings.SESSION_COOKIE_NAME] = new_session(person)
        return client

    return client_of


def new_client(**headers: str) -> Client:
    """A client; all share one chain of middleware, which lists the static files when it is made."""
    client = Client(headers=headers)
    client.handler = _handler()
    return client


@cache
def _handler() -> ClientHandler:
    return ClientHandler(enforce_csrf_checks=False)


@pytest.fixture
def site(built_scene: Scene, django_db_blocker: DjangoDbBlocker, tmp_path: Path) -> Iterator[Site]:
    """The portal under uvicorn on a free port, on a copy of the scene's database."""
    with (
        django_db_blocker.unblock(),
        serving(tmp_path / "site.sqlite3", copy.deepcopy(built_scene)) as running,
    ):
        yield running
