"""Applies a playbook of deploy/ to a Debian that lies in a folder, from inside it, as root.

Nothing runs in such a Debian: packages' services do not start, and the roles leave theirs for its first boot.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ansible comes with us, and is on no path that a task would see.
ANSIBLE = (
    "import runpy, sys; sys.path.append('/srv/packages'); sys.argv[0] = 'ansible'; "
    "runpy.run_module('ansible', run_name='__main__')"
)
REPOSITORY = Path(__file__).resolve().parent.parent
INSIDE = Path("/srv/leasehold")
TASK_OR_CHANGE = re.compile(
    r"^(?:(?:TASK|RUNNING HANDLER) \[(?P<task>.*)\] \*+|changed: \[inside\].*)$", re.MULTILINE
)
RECAP = re.compile(r"^inside\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)
# $0 is the root: it sees this checkout, what Python needs, and nothing that changes while it is applied.
ENTER = (
    'cd "$0" && mkdir -p srv/leasehold srv/packages && '
    "mount --rbind /dev dev && mount -t proc proc proc && mount -t sysfs sys sys && "
    "mount -t tmpfs tmpfs tmp && mount -t tmpfs tmpfs run && "
    'mount --bind "$1" srv/leasehold && mount --bind "$2" srv/packages && '
    'printf "%s" "$3" >run/inventory.yml && shift 3 && '
    "cat /etc/ssl/certs/ca-certificates.crt >run/authorities.pem; "
    'exec chroot . "$@"'
)


class RoleFailed(Exception):
    """The playbook did not come to its end; the text is what Ansible said."""


@dataclass(frozen=True)
class Applied:
    """How many tasks were in order or made so, how many of them changed something, and what was said."""

    ok: int
    changed: int
    output: str

    @property
    def changes(self) -> list[str]:
        """The names of the tasks that changed something, in their order."""
        names: list[str] = []
        task = ""
        for found in TASK_OR_CHANGE.finditer(self.output):
            if found["task"] is not None:
                task = found["task"]
            elif not names or names[-1] != task:
                names.append(task)
        return names


def require_unchanged(applied: Applied) -> None:
    """RoleFailed, with the names of the tasks, if a role that was applied again has changed something."""
    if applied.changed:
        raise RoleFailed(f"Applied again, these tasks changed something: {'; '.join(applied.changes)}")


def apply_role(playbook: str, root: Path, *, group: str, variables: dict[str, Any]) -> Applied:
    """Apply deploy/`playbook` to `root` as the one machine of the inventory's `group`."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        done = subprocess.run(
            words(playbook, root, group, variables), env=environment(), capture_output=True, text=True
        )
    finally:
        policy.unlink()
        for folder in (INSIDE, INSIDE.with_name("packages")):
            (root / folder.relative_to("/")).rmdir()
    if done.returncode:
        raise RoleFailed(f"{playbook}:\n{done.stdout}{done.stderr}")
    return counted(done.stdout)


def counted(output: str) -> Applied:
    """What Ansible's last line says of the one machine; RoleFailed if there is none."""
    recap = RECAP.search(output)
    if recap is None:
        raise RoleFailed(output)
    return Applied(ok=int(recap[1]), changed=int(recap[2]), output=output)


def packages(purpose: str) -> list[str]:
    """The Debian packages of deploy/packages/`purpose`.txt."""
    lines = (REPOSITORY / "deploy" / "packages" / f"{purpose}.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def words(playbook: str, root: Path, group: str, variables: dict[str, Any]) -> list[str]:
    inventory = {group: {"hosts": {"inside": {"ansible_connection": "local"}}}}
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, str(root),
            str(REPOSITORY), sysconfig.get_path("purelib"), json.dumps(inventory),
            "/usr/bin/python3", "-c", ANSIBLE, "playbook", str(INSIDE / "deploy" / playbook),
            "--inventory", "/run/inventory.yml", "--extra-vars", json.dumps(variables)]  # fmt: skip


def environment() -> dict[str, str]:
    """Nothing of the caller's but the ways out."""
    kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    kept |= {name: os.environ[name] for name in ("PIP_INDEX_URL",) if name in os.environ}
    return kept | {
        "PIP_CERT": "/run/authorities.pem",
        "HOME": "/tmp",  # noqa: S108 - of the root, empty and gone afterwards
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ANSIBLE_CONFIG": str(INSIDE / "deploy" / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
