"""Starts a Debian that lies in a folder, with its own systemd and a network of its own that leads nowhere.

It has the kernel of this machine, and namespaces of its own for everything else. Needs root and cgroup2.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.roles import ANSIBLE, INSIDE, REPOSITORY, Applied, RoleFailed, counted

BOOT_SECONDS = 120.0
# $0 is the root, the rest this checkout and what Python needs. The devices are those that any container has.
# The root is not entered by chroot: in one the kernel makes no user namespace, which confined services want.
BOOT = """
set -e
mount --make-rprivate /
mount --bind "$0" "$0" && cd "$0"
mkdir -p srv/leasehold srv/packages
mount --bind "$1" srv/leasehold && mount --bind "$2" srv/packages
mount -t proc proc proc && mount -t sysfs sysfs sys && mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev && mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts && ln -s pts/ptmx dev/ptmx
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
ln -s /proc/self/fd dev/fd
for name in dev/shm run tmp; do mount -t tmpfs -o mode=1755 tmpfs $name; done
chmod 755 run && chmod 1777 tmp dev/shm
ip link set lo up
pivot_root . mnt && umount -l /mnt
exec env -i container=leasehold PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"""
JOIN = 'echo $$ >"$0/cgroup.procs" && exec "$@"'


class Booted:
    """A context manager: inside it the system is up; at its end its processes are gone, its files stay."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __enter__(self) -> Self:
        self._cgroup = Path(tempfile.mkdtemp(prefix="leasehold-", dir=cgroup2()))
        alone = ["unshare", "--cgroup", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork",
                 "--kill-child", "sh", "-c", BOOT, str(self.root), str(REPOSITORY),
                 sysconfig.get_path("purelib")]  # fmt: skip
        self._process = subprocess.Popen(
            ["sh", "-c", JOIN, str(self._cgroup), *alone],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            self._wait_up()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def attempt(self, *words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        clean = ["env", "-i", "HOME=/root", "LANG=C.UTF-8",
                 "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                 *(f"{name}={value}" for name, value in variables.items())]  # fmt: skip
        # --root comes with the namespaces: they are entered first.
        enter = ["nsenter", "--target", str(self._leader()), "--all", "--root", "--wd"]
        return subprocess.run([*enter, *clean, *words], input=stdin, capture_output=True, text=True)

    def run(self, *words: str, stdin: str = "", **variables: str) -> str:
        """What the command prints; RoleFailed if it fails."""
        done = self.attempt(*words, stdin=stdin, **variables)
        if done.returncode:
            raise RoleFailed(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, playbook: str, *, group: str, variables: dict[str, Any]) -> Applied:
        """Apply a playbook of deploy/ to it while it runs."""
        inventory = {group: {"hosts": {"inside": {"ansible_connection": "local"}}}}
        self.run("tee", "/run/inventory.yml", stdin=json.dumps(inventory))
        output = self.run(
            "/usr/bin/python3", "-c", ANSIBLE, "playbook", str(INSIDE / "deploy" / playbook),
            "--inventory", "/run/inventory.yml", "--extra-vars", json.dumps(variables),
            PYTHONDONTWRITEBYTECODE="1", ANSIBLE_NOCOLOR="1",
            ANSIBLE_CONFIG=str(INSIDE / "deploy" / "ansible.cfg"),
        )  # fmt: skip
        return counted(output)

    def _wait_up(self) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(RoleFailed, OSError, IndexError):
                told = self.attempt("systemctl", "is-system-running").stdout.strip()
                if told in {"running", "degraded"}:
                    return
            time.sleep(0.2)
        raise RoleFailed("The system in the folder did not come up.")

    def _leader(self) -> int:
        """The process that is the first inside."""
        pid = self._process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def _stop(self) -> None:
        with contextlib.suppress(OSError, IndexError):
            os.kill(self._leader(), 9)
        self._process.kill()
        self._process.wait()
        # Deepest first; one whose processes are not quite gone yet goes a moment later.
        deadline = time.monotonic() + 10
        while self._cgroup.exists() and time.monotonic() < deadline:
            for folder in sorted(self._cgroup.rglob("**/"), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                self._cgroup.rmdir()
            time.sleep(0.05)


def cgroup2() -> str:
    """Where the unified hierarchy is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, place, kind, *_rest = line.split()
        if kind == "cgroup2":
            return place
    raise RoleFailed("There is no cgroup2 here: systemd cannot run in a folder.")
