"""Try `make demo` and `make test` in a new Debian root, from a clean clone of what is committed.

The root holds Debian's minimum, git, make and python3. Of this machine it gets only the ways out: package
sources, proxies, certificates and name resolution. Needs root, mmdebstrap and unshare; runs under any Python.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
ROOT = CHECKOUT / "var" / "fresh"
CLONE = Path("/srv/leasehold")
PORT = os.environ.get("PORT", "8000")
PACKAGES = "ca-certificates,git,make,python3"
WAYS_OUT = (
    "/etc/apt/apt.conf", "/etc/apt/apt.conf.d", "/etc/apt/auth.conf.d", "/etc/apt/keyrings",
    "/etc/apt/sources.list", "/etc/apt/sources.list.d", "/etc/apt/trusted.gpg.d",
    "/etc/hosts", "/etc/pip.conf", "/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/uv",
    "/etc/xdg/pip", "/root/.config/pip", "/root/.config/uv", "/usr/local/share/ca-certificates",
)  # fmt: skip
VARIABLES = ("PIP_", "UV_", "SSL_", "GIT_SSL", "CURL_CA", "REQUESTS_CA", "PORT")
DEMO_SECONDS = 900
STOP_SECONDS = 60


def outside() -> int:
    if os.geteuid() != 0:
        sys.exit("make fresh needs root: it makes a Debian root and enters it.")
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.parent.mkdir(exist_ok=True)
    timed("debian root", make_root)
    run("git", "clone", "--quiet", "--no-hardlinks", CHECKOUT, f"{ROOT}{CLONE}")
    status = subprocess.call(enter(CLONE / "tools" / "fresh.py", "--inside"), env=variables())
    if status == 0:
        shutil.rmtree(ROOT)
    return status


def make_root() -> None:
    sources = [path for path in apt_sources() if path.exists()]
    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", ROOT, *sources)
    for name in WAYS_OUT:
        bring(Path(name))


def apt_sources() -> list[Path]:
    folder = Path("/etc/apt/sources.list.d")
    return [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]


def bring(path: Path) -> None:
    target = Path(f"{ROOT}{path}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(path, target)
    elif path.exists():
        target.unlink(missing_ok=True)
        shutil.copy(path, target)


def enter(script: Path, *words: str) -> list[str]:
    """Run Python in the new root, in namespaces of its own: what it leaves running dies with it.

    The shell stays as their first process, because a shell reaps what others leave dead: to libvirt a QEMU
    that nobody reaped has not gone. The root is a mount of its own, or no sandbox could be made in it.
    """
    own = 'mount --bind "$0" "$0" && cd "$0"'
    mounts = f"{own} && mount --rbind /dev dev && mount -t proc proc proc && mount -t sysfs sys sys"
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return [
        *alone,
        "sh",
        "-c",
        f'{mounts} && chroot . "$@"; exit $?',
        str(ROOT),
        "python3",
        str(script),
        *words,
    ]


def variables() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    return {"HOME": "/root", "LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | kept | proxies


def inside() -> int:
    os.chdir(CLONE)
    timed("make demo", try_demo)
    timed("make test", lambda: run("make", "test"))
    return 0


def try_demo() -> None:
    """Start the demo, wait until it is ready, end it as Ctrl-C does, and look for what it left."""
    demo = subprocess.Popen(["make", "demo"], start_new_session=True)
    try:
        wait_until("the demo is ready", DEMO_SECONDS, lambda: ready() or demo.poll() is not None)
        if demo.poll() is not None:
            sys.exit(f"make demo ended by itself with {demo.returncode}")
        os.killpg(demo.pid, signal.SIGINT)
        demo.wait(STOP_SECONDS)
        wait_until("nothing is left running", STOP_SECONDS, lambda: not others())
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)


def ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def others() -> list[str]:
    """The processes of this namespace, but for this one, the first and the dead."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            words = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z" and int(folder.name) not in (1, os.getpid()):
            found.append(words or folder.name)
    return found


def wait_until(what: str, seconds: int, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"After {seconds} s it does not hold that {what}; running: {others()}")
        time.sleep(0.5)


def timed(title: str, work: Callable[[], None]) -> None:
    began = time.monotonic()
    work()
    print(f"==== {title}: {time.monotonic() - began:.0f} s ====", flush=True)


def run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True)


if __name__ == "__main__":
    sys.exit(inside() if sys.argv[1:] == ["--inside"] else outside())
