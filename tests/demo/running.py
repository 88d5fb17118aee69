"""A running demo, and what a newcomer does with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tools.pace import slowness

ROOT = Path(__file__).parents[2]


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


def sign_in(page: Page, demo: RunningDemo, who: tuple[str, str]) -> None:
    page.goto(demo.url)
    page.get_by_label("Name").fill(demo.accounts[who]["username"])
    page.get_by_label("Password").fill(demo.accounts[who]["password"])
    page.get_by_role("button", name="Sign in").click()


def prove(var: Path) -> None:
    """What is left below `var` is consistent, and its audit log is whole."""
    for proof in (["fsck"], ["audit", "verify"]):
        done = manage(var, *proof)
        assert done.returncode == 0, done.stdout + done.stderr


def manage(var: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env=environment(var),
        capture_output=True,
        text=True,
        check=False,
    )
