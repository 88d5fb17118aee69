"""`manage.py enrol_host`: trust a hypervisor's keys and print what it is told at its enrolment."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from hosts.models import Host
from leasing import enrolment
from leasing.actors import SYSTEM
from leasing.errors import DomainError


class PublicHalves(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `leasehold-host init` prints. The keys are hex."""

    signing_key: str
    sealing_key: str


class Command(BaseCommand):
    help = "Trust the host whose `leasehold-host init` wrote FILE, and print its enrolment.json."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what the host is called")
        parser.add_argument("file", type=Path, help="the output of `leasehold-host init`; - reads it here")
        parser.add_argument("--broker", default="", help="the broker's URL as the host reaches it")
        parser.add_argument("--simulated", action="store_true", help="its GPUs are not real")
        parser.add_argument(
            "--renew", action="store_true", help="it is enrolled already: give it a new broker password"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        name, halves = options["name"], _read(options["file"])
        now = timezone.now()
        try:
            access = (
                _renew(name, halves, now)
                if options["renew"]
                else _enrol(name, halves, options["simulated"], now)
            )
        except enrolment.BrokerRefused as error:
            raise CommandError(f"{error} Once it answers, run this with --renew.") from error
        except DomainError as error:
            raise CommandError(str(error)) from error
        lines = {
            "host": options["name"],
            "portal": settings.SITE_URL,
            "broker_url": broker_url(options["broker"] or settings.BROKER_URL, access),
            "control_keys": [access.control_key],
        }
        self.stdout.write(msgspec.json.encode(lines).decode())
        self.stderr.write("The password is shown this once. Keep enrolment.json private: chmod 600.")


def broker_url(base: str, access: enrolment.HostAccess) -> str:
    """The broker at `base`, entered with the host's own account instead of any that `base` names."""
    parts = urlsplit(base)
    account = f"{quote(access.broker_user, safe='')}:{quote(access.broker_password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{account}@{parts.netloc.rpartition('@')[2]}"))


def _read(path: Path) -> PublicHalves:
    try:
        text = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return msgspec.json.decode(text, type=PublicHalves)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.MsgspecError as error:
        raise CommandError(f"{path} is not what `leasehold-host init` prints: {error}.") from error


def _enrol(name: str, halves: PublicHalves, simulated: bool, now: datetime) -> enrolment.HostAccess:
    _, access = enrolment.enrol_host(
        actor=SYSTEM,
        name=name,
        signing_key=halves.signing_key,
        sealing_key=halves.sealing_key,
        simulated=simulated,
        now=now,
    )
    return access


def _renew(name: str, halves: PublicHalves, now: datetime) -> enrolment.HostAccess:
    host = Host.objects.filter(name=name, signing_key=halves.signing_key).first()
    if host is None:
        raise CommandError(f"No host “{name}” with these keys is enrolled.")
    return enrolment.grant_access(actor=SYSTEM, host=host, now=now)
