"""A folder for the demo to live in, and a browser."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from appliance.debian import DEFAULT_CACHE
from lab.tenant.build import build_tenant
from tools.pace import slowness

expect.set_options(timeout=5_000 * slowness())
TENANT = DEFAULT_CACHE.parent / "tenant"
CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture
def var() -> Iterator[Path]:
    # Unix sockets lie below it, and their paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))
    shutil.copytree(build_tenant(TENANT).parent, folder / "images" / "tiny")
    yield folder
    if not os.environ.get("LEASEHOLD_KEEP"):
        shutil.rmtree(folder)


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(CHROMIUM))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(30_000 * slowness())
        yield page
        browser.close()
