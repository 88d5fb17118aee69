"""`python -m lab up`: the whole lab, to be used by hand, until Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import django

# What follows imports the domain's models.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()

from lab.hypervisor.machine import PLAIN, WITH_AUDIO  # noqa: E402
from lab.running import Lab  # noqa: E402


def up() -> int:
    """Bring everything up, say how to get in, and wait."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leasehold-lab-")))
        print("Starting the virtual hypervisor and the control plane; this takes a few minutes.", flush=True)
        lab = stack.enter_context(Lab(folder))
        lab.host.enrol()
        lab.host.admit_gpus(PLAIN, WITH_AUDIO)
        announce(lab)
        while not stop.wait(1):
            lab.portal.household.check()
        print("Stopping …", flush=True)
    return 0


def announce(lab: Lab) -> None:
    for (tenant, role), account in lab.portal.accounts.items():
        print(f"   {role:<18} {tenant or '(all)':<10} {account.username:<8} {account.password}")
    print(f"Ready: {lab.portal.url}   (Ctrl-C stops everything; files are in {lab.folder})")
    print(f"The hypervisor's console: socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{lab.folder}/serial.socket")


if __name__ == "__main__":
    if sys.argv[1:] != ["up"]:
        sys.exit("usage: python -m lab up")
    sys.exit(up())
