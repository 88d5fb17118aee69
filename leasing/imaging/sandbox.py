"""qemu-img on a file that somebody uploaded, where it can do no harm: docs/adr/0036.

It sees that one file, an empty folder for its result and Debian's programs; no network, no other process, no
privilege, and bounds on memory, processor time, size of files and time.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from django.conf import settings

INPUT, RESULT = "/in/image", "/out/image.raw"
# nobody, in Debian and most others: owns nothing.
NOBODY = 65534
MEMORY_BYTES = 2 << 30
LOOK_SECONDS = 60
OUTPUT_AT_MOST = 1 << 20
# 128 and the signal: SIGKILL by `timeout`, or SIGXCPU by the bound on processor time.
_OUT_OF_TIME = (128 + signal.SIGKILL, 128 + signal.SIGXCPU)
_PROGRESS = re.compile(rb"\(([0-9]+)\.[0-9]+/100%\)")


class SandboxMissing(Exception):
    """The programs for it are not installed, or the system does not let them work."""


class Ran(NamedTuple):
    """How a program in the sandbox ended, and the first of what it said. `late`: it was stopped."""

    status: int
    output: bytes
    errors: str
    late: bool


def qemu_img(
    *arguments: str,
    source: Path,
    result: Path | None = None,
    seconds: float = LOOK_SECONDS,
    file_bytes: int = 0,
    on_percent: Callable[[int], None] = lambda _: None,
) -> Ran:
    """Run it on `source` (INPUT inside), with `result` as the folder of RESULT; SandboxMissing.

    `file_bytes` bounds each file that it writes.
    """
    missing = [name for name in ("bwrap", "prlimit", "setpriv", "qemu-img") if shutil.which(name) is None]
    if missing:
        raise SandboxMissing(", ".join(missing))
    limits = Limits(seconds=int(seconds), file_bytes=file_bytes)
    command = sandboxed(
        ("/usr/bin/qemu-img", *arguments), source=source, result=result, limits=limits, root=os.geteuid() == 0
    )
    ran = _run(command, seconds=seconds, on_percent=on_percent)
    if ran.status and ran.errors.startswith("bwrap:"):
        raise SandboxMissing(ran.errors.splitlines()[0])
    return ran


class Limits(NamedTuple):
    """Of one run: processor time, and the size of a file."""

    seconds: int
    file_bytes: int


def sandboxed(
    program: Sequence[str], *, source: Path, result: Path | None, limits: Limits, root: bool
) -> list[str]:
    """The command line. Root becomes nobody inside; anybody else is themselves, in a user namespace."""
    folders = ["--dir", str(Path(INPUT).parent), "--ro-bind", str(source), INPUT]
    if result is not None:
        folders += ["--bind", str(result), str(Path(RESULT).parent)]
    kept = ("SETUID", "SETGID", "SETPCAP") if root else ()
    caps = [word for name in kept for word in ("--cap-add", f"CAP_{name}")]
    return [
        "bwrap", *(() if root else ("--unshare-user",)),
        "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
        "--die-with-parent", "--new-session", "--clearenv",
        "--setenv", "PATH", "/usr/bin", "--setenv", "LC_ALL", "C", "--setenv", "MALLOC_ARENA_MAX", "1",
        "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin",
        "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
        "--dev", "/dev", *folders, "--chdir", "/", "--cap-drop", "ALL", *caps, "--",
        *(_as_nobody() if root else ()),
        "timeout", "--signal=KILL", str(max(1, limits.seconds)),
        "prlimit", f"--as={MEMORY_BYTES}", f"--cpu={max(1, limits.seconds)}", f"--fsize={limits.file_bytes}",
        "--nofile=64", "--core=0", "--", *program,
    ]  # fmt: skip


def _as_nobody() -> tuple[str, ...]:
    return (
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
        "--inh-caps=-all", "--bounding-set=-all", "--",
    )  # fmt: skip


def open_to_sandbox(folder: Path) -> None:
    """Let who runs inside write into the folder."""
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)


def readable_inside(source: Path) -> None:
    """Let who runs inside read the file; nobody outside reaches it, for its folder is closed."""
    if os.geteuid() == 0:
        os.chown(source, NOBODY, NOBODY)


def _run(command: Sequence[str], *, seconds: float, on_percent: Callable[[int], None]) -> Ran:
    """Until it has said everything, or its time is up: whatever it left running then is not waited for."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018
    listener = _Listener(on_percent)
    try:
        late = not listener.hear(process.stdout, process.stderr, deadline=time.monotonic() + seconds)
        if late:
            # The group: bubblewrap's own child is bound to its life only once it is set up.
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    return Ran(
        status,
        listener.output,
        listener.errors.decode(errors="replace").strip(),
        late or status in _OUT_OF_TIME,
    )


class _Listener:
    """Keeps the first of what a program says, and passes its progress on."""

    def __init__(self, on_percent: Callable[[int], None]) -> None:
        self.output = self.errors = b""
        self._on_percent = on_percent
        self._told = -1

    def hear(self, output: IO[bytes], errors: IO[bytes], *, deadline: float) -> bool:
        """Whether both came to their end in time."""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ, self._hear_output)
            selector.register(errors, selectors.EVENT_READ, self._hear_errors)
            while selector.get_map():
                left = deadline - time.monotonic()
                ready = selector.select(left) if left > 0 else []
                if not ready:
                    return False
                for key, _ in ready:
                    chunk = os.read(key.fd, 65536)
                    if chunk:
                        key.data(chunk)
                    else:
                        selector.unregister(key.fileobj)
        return True

    def _hear_output(self, chunk: bytes) -> None:
        self.output += chunk[: OUTPUT_AT_MOST - len(self.output)]
        found = _PROGRESS.findall(chunk)
        if found and (percent := int(found[-1])) != self._told:
            self._told = percent
            self._on_percent(percent)

    def _hear_errors(self, chunk: bytes) -> None:
        self.errors += chunk[: OUTPUT_AT_MOST - len(self.errors)]


def conversion_seconds() -> float:
    return float(settings.IMAGE_CONVERSION_SECONDS)
