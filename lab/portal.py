"""The lab's control plane, outside the hypervisor: PostgreSQL, Redis, workers and portal, all private."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from redis import Redis

from lab.hypervisor.machine import LOOPBACK, LabError
from portal.demo.processes import Household, python
from portal.demo.seed import read_accounts
from tools.servers import free_port, postgres_server, redis_server

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 120.0
MANAGE_SECONDS = 120.0
HOME_GIB = 1
POLL_SECONDS = 1.0
CELERY_OPTIONS = ("--pool", "threads", "--concurrency", "1", "--loglevel", "INFO",
                  "--without-gossip", "--without-mingle", "--without-heartbeat")  # fmt: skip

Who = tuple[str, str]


@dataclass
class LabPortal:
    """A context manager. `folder` takes its keys, logs and mail; nothing of it outlives the context."""

    folder: Path
    manifest: Path
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)

    def __enter__(self) -> Self:
        self.folder.mkdir(mode=0o700)
        with ExitStack() as stack:
            self.environment = self._environment(stack)
            self.seed("prepare", self.url, str(self._accounts_file), str(self.manifest))
            self.accounts = {(each.tenant, each.role): each for each in read_accounts(self._accounts_file)}
            logs = self.folder / "logs"
            logs.mkdir()
            self.household = Household(logs, self.environment)
            stack.callback(self.household.stop)
            self._start_processes()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url_from_inside(self) -> str:
        """The portal as the hypervisor reaches it, to be enrolled: encrypted, under `certificate`."""
        return f"https://{LOOPBACK}:{self.tls_port}"

    @property
    def certificate(self) -> Path:
        return self.folder / "portal.pem"

    def call(self, path: str, who: Who, body: dict[str, Any] | None = None) -> Any:
        """Ask the API; JSON becomes objects. `who` is (tenant, role), without tenant for global roles."""
        answer = httpx.request(
            "GET" if body is None else "POST",
            f"{self.url}/api/v1/{path}",
            json=body,
            headers={"Authorization": f"Token {self.accounts[who].api_token}"},
            timeout=30,
        )
        if answer.is_error:
            raise LabError(f"{path}: {answer.status_code} {answer.text}")
        return answer.json() if "json" in answer.headers["Content-Type"] else answer.text

    def seed(self, function: str, *words: str) -> None:
        """Call a function of lab.seed in the portal's environment."""
        self.manage("shell", "--verbosity", "0", "-c", f"from lab import seed; seed.{function}(*{words!r})")

    def manage(self, *words: str) -> str:
        """What `manage.py` prints; LabError if it fails."""
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=ROOT,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=MANAGE_SECONDS,
        )
        if done.returncode:
            raise LabError(f"{' '.join(words)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def wait_until(self, what: str, holds: Callable[[], object], *, seconds: float) -> None:
        """Poll until it holds; LabError when it does not in time or a process of ours has died."""
        deadline = time.monotonic() + seconds
        while not holds():
            self.household.check()
            if time.monotonic() > deadline:
                raise LabError(f"Not within {seconds:.0f} s: {what}")
            time.sleep(POLL_SECONDS)

    def _environment(self, stack: ExitStack) -> dict[str, str]:
        key = self.folder / "secret.key"
        key.touch(mode=0o600)
        key.write_text(secrets.token_urlsafe(50))
        return {
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "LEASEHOLD_VAR": str(self.folder),
            "LEASEHOLD_DATABASE": stack.enter_context(postgres_server()),
            "LEASEHOLD_BROKER": (broker := self._start_broker(stack)),
            "LEASEHOLD_BROKER_ADMIN": broker,
            "LEASEHOLD_BROKER_FOR_HOSTS": f"redis://{LOOPBACK}:{self._redis_port}/0",
            "LEASEHOLD_SECRET_KEY_FILE": str(key),
            "LEASEHOLD_TICK_SECONDS": "2",
            "LEASEHOLD_HOME_GIB": str(HOME_GIB),
            "LEASEHOLD_SITE_URL": self.url,
            "LEASEHOLD_GATEWAY_URL": f"ws://{LOOPBACK}:{self.port}/ws/",
            "LEASEHOLD_ALLOWED_HOSTS": f"127.0.0.1,localhost,{LOOPBACK}",
            "LEASEHOLD_EMAIL_BACKEND": "django.core.mail.backends.filebased.EmailBackend",
        }

    def _start_broker(self, stack: ExitStack) -> str:
        """With a password, or the hypervisor could come in as the account that may do everything."""
        server = stack.enter_context(redis_server())
        self._redis_port = server.port
        password = secrets.token_urlsafe(32)
        with Redis.from_url(server.url) as broker:
            broker.config_set("requirepass", password)
        return f"redis://default:{password}@127.0.0.1:{server.port}/0"

    def _start_processes(self) -> None:
        celery = python("-m", "celery", "-A")
        worker = ("worker", *CELERY_OPTIONS)
        self.household.start("reports", [*celery, "portal.celery:reports", *worker, "-n", "reports@lab"])
        self.household.start(
            "control", [*celery, "portal.celery:control", *worker, "--beat", "-n", "control@lab"]
        )
        self.household.start("portal", python("-m", "uvicorn", *self._uvicorn_options(self.port)))
        self._make_certificate()
        encrypted = ["--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self._certificate_key)]
        options = [*self._uvicorn_options(self.tls_port), *encrypted]
        self.household.start("portal for hosts", python("-m", "uvicorn", *options))
        self.wait_until("the portal answers", self._is_ready, seconds=START_SECONDS)

    def _make_certificate(self) -> None:
        """One that says nothing but where the portal is, and that only who has it trusts."""
        words = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2", "-subj", "/CN=lab",
                 "-addext", f"subjectAltName=IP:{LOOPBACK},IP:127.0.0.1",
                 "-keyout", str(self._certificate_key), "-out", str(self.certificate)]  # fmt: skip
        subprocess.run(words, check=True, capture_output=True)

    @property
    def _certificate_key(self) -> Path:
        return self.folder / "portal-tls.key"

    def _uvicorn_options(self, port: int) -> list[str]:
        return ["portal.asgi:application", "--host", "127.0.0.1", "--port", str(port),
                "--ws", "websockets-sansio", "--ws-per-message-deflate", "false", "--no-server-header",
                "--timeout-graceful-shutdown", "3", "--log-level", "warning"]  # fmt: skip

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    @property
    def _accounts_file(self) -> Path:
        return self.folder / "lab.json"
