"""`manage.py demo` as a newcomer meets it: two starts, one workstation that outlives the first."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from appliance.debian import DEFAULT_CACHE
from lab.tenant.build import build_tenant
from tools.pace import slowness
from tools.servers import free_port

ROOT = Path(__file__).parents[2]
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


class RunningDemo:
    """One start of the demo below `var`; used as a context, it ends with Ctrl-C and leaves nothing."""

    def __init__(self, var: Path, port: int) -> None:
        self.var, self.port = var, port
        self.output: list[str] = []

    def __enter__(self) -> RunningDemo:
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "demo", "--port", str(self.port)],
            cwd=ROOT,
            env=environment(self.var),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if line.startswith("Ready: "):
                break
        assert self.output, "the demo said nothing"
        assert self.output[-1].startswith("Ready: "), "".join(self.output)
        self.accounts = {
            (account["tenant"], account["role"]): account
            for account in json.loads((self.var / "demo.json").read_text())["accounts"]
        }
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is not None:
            self.print_logs()
        self.process.send_signal(signal.SIGINT)
        try:
            rest = self.process.communicate(timeout=90 * slowness())[0]
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        assert self.process.returncode == 0, rest
        assert processes_of(self.var) == []

    def print_logs(self) -> None:
        """The last lines of each, for whoever has to find out."""
        for log in sorted((self.var / "logs").glob("*.log")):
            print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-40:], sep="\n")

    def call(self, path: str, who: tuple[str, str], body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the demo's own loopback address
            f"{self.url}{path}",
            data=json.dumps(body).encode() if body is not None else None,
            headers={
                "Authorization": f"Token {self.accounts[who]['api_token']}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10 * slowness()) as response:  # noqa: S310
            text = response.read().decode()
        return json.loads(text) if "json" in response.headers["Content-Type"] else text


def environment(var: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("LEASEHOLD_")}
    return {**own, "LEASEHOLD_VAR": str(var), "PYTHONUNBUFFERED": "1"}


def processes_of(var: Path) -> list[str]:
    """Command lines of every process, other than this one, that mentions the demo's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            surroundings = (entry / "environ").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if int(entry.name) != os.getpid() and str(var) in words + surroundings:
            found.append(words)
    return found


def eventually(holds: Callable[[], bool], what: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds * slowness()
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds * slowness():.0f} s"
        time.sleep(0.2)


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


@pytest.mark.timeout(300)
def test_a_workstation_is_leased_seen_kept_over_a_restart_and_billed(var: Path, page: Page) -> None:
    member = ("studio", "member")
    with RunningDemo(var, free_port()) as demo:
        assert stat.S_IMODE((var / "demo.json").stat().st_mode) == 0o600
        assert {tenant for tenant, _ in demo.accounts} == {"studio", "research", ""}
        sign_in(page, demo, member)
        lease_url = book(page)
        see_it_come_up(page)
        see_a_picture(page, lease_url)
        lease_id = lease_url.rstrip("/").rsplit("/", 1)[-1]

    with RunningDemo(var, free_port()) as demo:

        def machine() -> str:
            return str(demo.call(f"/api/v1/leases/{lease_id}/", member)["machine"])

        eventually(lambda: machine() == "running", "the machine is back", seconds=60)
        eventually(
            lambda: any("qemu-system" in words for words in processes_of(var)), "QEMU runs", seconds=30
        )
        demo.call(f"/api/v1/leases/{lease_id}/end/", member, {})
        eventually(lambda: machine() == "gone", "the lease ends", seconds=60)
        (home,) = demo.call("/api/v1/homes/", member)["results"]
        assert (home["state"], home["last_lease"]) == ("detached", lease_id)
        left = {"leasehold-pool", f"{home['id']}.home.qcow2"}
        assert {file.name for file in (var / "homes").iterdir()} == left
        gpus = ("", "operator")
        eventually(
            lambda: {gpu["state"] for gpu in demo.call("/api/v1/gpus/", gpus)["results"]} == {"clean"},
            "every GPU is clean again",
            seconds=60,
        )
        assert lease_id in demo.call("/api/v1/usage/export/", ("studio", "finance"))
        assert "lost+found" in {entry["name"] for entry in listed(demo, member, home["id"])}
    for proof in (["fsck"], ["audit", "verify"]):
        done = subprocess.run(
            [sys.executable, "manage.py", *proof],
            cwd=ROOT,
            env=environment(var),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def listed(demo: RunningDemo, who: tuple[str, str], volume: str) -> list[dict[str, Any]]:
    """What lies on the home volume, found by a real machine that boots for it."""
    asked = demo.call(f"/api/v1/homes/{volume}/readings/", who, {"wanted": "list", "path": ""})

    def now() -> Any:
        return demo.call(f"/api/v1/home-readings/{asked['id']}/", who)

    eventually(lambda: now()["ended_at"] is not None, "the home volume is read", seconds=60)
    entries: list[dict[str, Any]] = now()["listing"]["entries"]
    return entries


def sign_in(page: Page, demo: RunningDemo, who: tuple[str, str]) -> None:
    page.goto(demo.url)
    page.get_by_label("Name").fill(demo.accounts[who]["username"])
    page.get_by_label("Password").fill(demo.accounts[who]["password"])
    page.get_by_role("button", name="Sign in").click()


def book(page: Page) -> str:
    page.get_by_role("link", name="Book").first.click()
    home = page.get_by_label("Attach my home volume")
    # A host's first words are in the version of the protocol that every portal knows: without a pool.
    eventually(lambda: bool(page.reload()) and home.is_visible(), "the host tells of its pool", seconds=20)
    page.get_by_role("radio", name="Studio A6000").check()
    page.get_by_role("radio", name="2 hours").check()
    home.check()
    expect(page.locator("#price")).to_contain_text("7.60")
    page.get_by_role("button", name="Book it").click()
    page.wait_for_url(re.compile(r"/workstations/[0-9a-f-]{36}/$"))
    return page.url


def see_it_come_up(page: Page) -> None:
    """The page follows by itself: nothing here reloads it."""
    page.evaluate("window.untouched = true")
    expect(page.locator("[data-state=active][data-machine=running]")).to_be_visible(
        timeout=60_000 * slowness()
    )
    expect(page.locator("[data-step=start][data-step-state=done]")).to_be_visible()
    assert page.evaluate("window.untouched")


def see_a_picture(page: Page, lease_url: str) -> None:
    """More than one colour on the console's canvas: a live machine, drawn by the browser."""
    page.get_by_role("link", name="Open console").click()
    expect(page.locator("#console-state")).to_contain_text("Connected", timeout=20_000 * slowness())
    colours = """() => {
        const canvas = document.querySelector('#screen canvas');
        if (!canvas || !canvas.width) return 0;
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const seen = new Set();
        for (let i = 0; i < pixels.length; i += 4) seen.add(pixels[i] << 16 | pixels[i+1] << 8 | pixels[i+2]);
        return seen.size;
    }"""
    eventually(lambda: page.evaluate(colours) > 1, "the console shows a picture", seconds=30)
    if folder := os.environ.get("LEASEHOLD_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/console.png")
    page.goto(lease_url)
