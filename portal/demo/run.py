"""Starts the demo step by step, says what it does, and stops all of it at Ctrl-C."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from django.conf import settings
from django.core.management import call_command
from django.utils import timezone

from hosts.models import Gpu, Host
from hosts.protocol.homes import POOL_MARK
from leasing.actors import SYSTEM
from leasing.enrolment import tokens
from portal.demo import broker, seed
from portal.demo.processes import DemoFailed, Household, python

HOST = "demo"
CELERY_OPTIONS = ("--pool", "threads", "--concurrency", "1", "--loglevel", "INFO")
CELERY_SILENCE = ("--without-gossip", "--without-mingle", "--without-heartbeat")


class Demo:
    """One run of the demo below `settings.VAR_DIR`, serving on loopback."""

    def __init__(self, *, port: int, say: Callable[[str], None]) -> None:
        self.port = port
        self.say = say
        self.var: Path = settings.VAR_DIR
        self.url = f"http://127.0.0.1:{port}"
        self.household = Household(self._folder("logs"), self._environment())

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM. DemoFailed if something does not come up or dies."""
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        try:
            self._start(stop)
            while not stop.wait(1):
                self.household.check()
        except _Stopped:
            pass
        finally:
            self.say("Stopping …")
            self.household.stop()
            self.say("Stopped. `make demo` goes on where this ended.")

    def _start(self, stop: threading.Event) -> None:
        steps = (
            ("Building the small systems that the demo's machines run", self._build_image),
            ("Starting the broker", self._start_broker),
            ("Preparing the database", self._prepare_database),
            ("Starting portal and control worker", self._start_processes),
            ("Waiting until the portal answers", self._await_portal),
            ("Enrolling the host and starting its worker", self._start_host),
            ("Proving the GPUs clean (simulated: reset, fill, read back)", self._await_gpus),
        )
        for number, (words, step) in enumerate(steps, 1):
            if stop.is_set():
                raise _Stopped
            self.say(f"[{number}/{len(steps)}] {words}")
            step()
        self._announce()

    def _environment(self) -> dict[str, str]:
        key = self.var / "secret.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(secrets.token_urlsafe(50))
        return {
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "LEASEHOLD_VAR": str(self.var),
            "LEASEHOLD_SECRET_KEY_FILE": str(key),
            "LEASEHOLD_SITE_URL": self.url,
            "LEASEHOLD_EMAIL_BACKEND": "django.core.mail.backends.filebased.EmailBackend",
            "LEASEHOLD_BROKER_ADMIN": f"redis+socket://{self.var / 'broker.sock'}",
        }

    def _build_image(self) -> None:
        if not self._image_manifest.exists():
            _run(python("-m", "lab.tenant.build", str(self._image_manifest.parent)))
        if not self._reader_manifest.exists():
            _run(python("-m", "appliance.reader", str(self._reader_manifest.parent)))

    def _start_broker(self) -> None:
        socket = self.var / "broker.sock"
        self.household.start("broker", broker.broker_command(self._folder("broker"), socket))
        self.household.wait_for(lambda: broker.answers(socket), "The broker's start", seconds=20)

    def _prepare_database(self) -> None:
        call_command("migrate", verbosity=0)
        now = timezone.now()
        seed.seed_catalogue(image_manifest=self._image_manifest, now=now)
        accounts = seed.read_accounts(self.var / "demo.json") or seed.seed_people(now=now)
        seed.write_accounts(self.var / "demo.json", url=self.url, accounts=accounts)

    def _start_processes(self) -> None:
        celery = python("-m", "celery", "-A")
        worker = ("worker", *CELERY_OPTIONS, *CELERY_SILENCE)
        self.household.start("reports", [*celery, "portal.celery:reports", *worker, "-n", "reports@demo"])
        self.household.start(
            "control",
            [*celery, "portal.celery:control", *worker, "--beat", "-n", "control@demo"],
        )
        self.household.start("portal", python("-m", "uvicorn", *self._uvicorn_options()))

    def _uvicorn_options(self) -> list[str]:
        return [
            "portal.asgi:application",
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--ws", "websockets-sansio", "--ws-per-message-deflate", "false", "--no-proxy-headers"),
            *("--timeout-graceful-shutdown", "3"),
            *("--log-level", "warning", "--no-server-header"),
        ]

    def _await_portal(self) -> None:
        self.household.wait_for(lambda: _answers(f"{self.url}/readyz"), "The portal's start", seconds=60)

    def _start_host(self) -> None:
        """Enrolled once, as an operator would do it; the broker forgets its accounts whenever it stops."""
        self._write_config()
        if Host.objects.filter(name=HOST, retired_at=None).exists():
            _run(python("manage.py", "broker_accounts"), self.household.environment)
        else:
            self._enrol_host()
        self.household.start("host", self._host_command("run"))

    def _enrol_host(self) -> None:
        _, token = tokens.make_token(actor=SYSTEM, name=HOST, simulated=True, now=timezone.now())
        file = self.var / "token"
        file.touch(mode=0o600)
        file.write_text(token)
        _run([*self._host_command("enrol"), "--portal", self.url, "--token-file", str(file)])
        file.unlink()

    def _await_gpus(self) -> None:
        self.household.wait_for(
            lambda: seed.admit_found_gpus(now=timezone.now()) > 0, "The inventory", seconds=60
        )
        busy = Gpu.objects.filter(state__in=["dirty", "scrubbing"])
        self.household.wait_for(lambda: not busy.exists(), "The GPUs' intake", seconds=120)

    def _announce(self) -> None:
        rows = [("role", "team", "name", "password")]
        accounts = seed.read_accounts(self.var / "demo.json")
        rows += [(a.role, a.tenant or "(all)", a.username, a.password) for a in accounts]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            self.say("   " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        self.say("GPUs are simulated and machines run unconfined: for trying out, on this machine only.")
        self.say(f"Ready: {self.url}   (Ctrl-C stops everything; logs are in {self.household.logs})")

    @property
    def _image_manifest(self) -> Path:
        return self.var / "images" / "tiny" / "manifest.json"

    @property
    def _reader_manifest(self) -> Path:
        return self.var / "reader" / "manifest.json"

    def _host_command(self, command: str) -> list[str]:
        return python("-m", "hosts.agent.cli", command, "--config", str(self.var / "host.toml"))

    def _write_config(self) -> None:
        text = {
            "state_directory": str(self._folder("host")),
            "images_directory": str(self.var / "images"),
            "libvirt_uri": f"qemu:///embed?root={self._folder('libvirt')}",
            "domain_type": "qemu",
            "bus": "simulated",
            "bus_directory": str(self._folder("pci")),
            "resend_seconds": 5.0,
            "stop_machines_on_exit": True,
            "network": {"mode": "user"},
            "home_pool": {"name": "demo", "directory": str(self._pool("demo"))},
            "reader": {
                "directory": str(self._reader_manifest.parent),
                "sha256": hashlib.sha256(self._reader_manifest.read_bytes()).hexdigest(),
            },
        }
        path = self.var / "host.toml"
        path.touch(mode=0o600)
        path.write_bytes(msgspec.toml.encode(text))

    def _pool(self, name: str) -> Path:
        folder = self._folder("homes")
        (folder / POOL_MARK).write_text(f"{name}\n")
        return folder

    def _folder(self, name: str) -> Path:
        folder = self.var / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


class _Stopped(Exception):
    """Ctrl-C came while things were starting."""


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise DemoFailed(f"`{' '.join(command)}` failed; its message is above.")
    return done.stdout


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - our own loopback address
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
