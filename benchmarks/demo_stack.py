"""The demo as something to measure: started in a folder of its own, spoken to over HTTP, gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.servers import free_port

ROOT = Path(__file__).resolve().parents[1]
STOP_SECONDS = 90

Who = tuple[str, str]


class DemoStack:
    """A demo that has been started. `who` is (tenant, role), as in its demo.json."""

    def __init__(self, var: Path, url: str, process: subprocess.Popen[str]) -> None:
        self.var, self.url = var, url
        self.accounts: dict[Who, dict[str, str]] = {}
        self._process = process

    def wait_ready(self) -> None:
        """Return when it says so; RuntimeError with what it said if it ends instead."""
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if line.startswith("Ready: "):
                accounts = json.loads((self.var / "demo.json").read_text())["accounts"]
                self.accounts = {(account["tenant"], account["role"]): account for account in accounts}
                return
        raise RuntimeError("The demo did not start:\n" + "".join(said))

    def call(self, path: str, who: Who, body: dict[str, Any] | None = None) -> Any:
        """What the API answers: to a POST if there is a body, else to a GET."""
        request = urllib.request.Request(  # noqa: S310 - the demo, on loopback
            f"{self.url}/api/v1/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Token {self.accounts[who]['api_token']}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return json.load(response)

    def kept_definition(self, machine: str) -> str:
        """The XML that the demo's libvirt keeps of a machine."""
        return (self.var / "libvirt" / "etc" / "qemu" / f"{machine}.xml").read_text(encoding="utf-8")

    def serial_log(self, lease_id: str) -> str:
        """What the lease's machine has said on its serial port so far."""
        path = self.var / "host" / "machines" / f"{lease_id}.log"
        return path.read_text(errors="replace") if path.exists() else ""


@contextmanager
def started_demo() -> Iterator[DemoStack]:
    """Start it, yield it at once, stop it as Ctrl-C does."""
    # Unix sockets lie below it, and their paths must be short.
    var, port = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp")), free_port()
    (var / "images").symlink_to(tenant_images().parent)
    process = subprocess.Popen(
        [sys.executable, "manage.py", "demo", "--port", str(port)],
        cwd=ROOT,
        env=_environment(var),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield DemoStack(var, f"http://127.0.0.1:{port}", process)
    finally:
        _stop(process)
        shutil.rmtree(var)


def wait_until(holds: Callable[[], bool], what: str, *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


def tenant_images() -> Path:
    """The folder of `make demo`'s small system, made if need be: building it is not what is measured."""
    tiny = ROOT / "var" / "images" / "tiny"
    if not (tiny / "manifest.json").exists():
        build = [sys.executable, "-m", "lab.tenant.build", str(tiny)]
        subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return tiny


def _environment(var: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEASEHOLD_")}
    return {**kept, "LEASEHOLD_VAR": str(var), "PYTHONUNBUFFERED": "1"}


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
