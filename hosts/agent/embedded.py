"""Readies a folder for libvirt's embedded QEMU driver, which runs in the process that connects to it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from hosts.agent.machines import HypervisorError

# libvirt looks this account up before it reads any configuration, even if another is configured.
QEMU_ACCOUNT = "libvirt-qemu"

EMBEDDED_CONF = """\
stdio_handler = "file"
remember_owner = 0
security_driver = "none"
security_default_confined = 0
namespaces = []
cgroup_controllers = []
user = "root"
group = "root"
swtpm_user = "root"
swtpm_group = "root"
"""


def embedded_root(uri: str) -> Path | None:
    parts = urlsplit(uri)
    if parts.path != "/embed":
        return None
    return Path(parse_qs(parts.query)["root"][0])


def prepare_embedded(root: Path) -> None:
    """Configure QEMU's embedded driver to run machines as root, unconfined and without a system's daemons."""
    if os.geteuid() == 0:
        _require_account()
    conf = root / "etc" / "qemu.conf"
    conf.parent.mkdir(parents=True, exist_ok=True)
    conf.write_text(EMBEDDED_CONF)


def _require_account() -> None:
    try:
        pwd.getpwnam(QEMU_ACCOUNT)
    except KeyError:
        raise HypervisorError(
            f"libvirt's QEMU driver needs the account {QEMU_ACCOUNT}: "
            f"`useradd --system --user-group --no-create-home {QEMU_ACCOUNT}` makes one."
        ) from None
