"""Builds the virtual hypervisor's image, or finds it built: `python -m lab.hypervisor.image [CACHEDIR]`.

Two layers, each cached under a digest of what goes into it: Debian (minutes, rarely) and Leasehold (seconds).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.hypervisor import base, code
from lab.hypervisor.machine import Image

ROOT = Path(__file__).resolve().parents[2]
# Beside the checkouts: a new clone finds what another one has built.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "leasehold" / "lab"
CODE_INPUTS = (
    "hosts/__init__.py", "hosts/protocol", "hosts/agent", "packaging/leasehold-host", "uv.lock",
    "appliance", "lab/tenant", "lab/hypervisor/code.py",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, nargs="?", default=CACHE)
    began = time.monotonic()
    image = prepare_image(parser.parse_args().cache)
    print(f"{image.base} and {image.code_disk}, in {time.monotonic() - began:.1f} s")


def prepare_image(cache: Path = CACHE) -> Image:
    """The image for the sources as they are. Whoever comes second waits for the first to have built it."""
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        debian = layer(cache, "base", f"{base.RECIPE}\n{contents(base.INPUTS)}", base.build_base)
        ours = layer(cache, "code", contents(CODE_INPUTS), lambda folder: build_code(folder, cache))
    return Image(base=debian, code_disk=ours / "code.img")


def build_code(folder: Path, cache: Path) -> None:
    code.build_code_disk(folder / "code.img", packages=cache / "packages")


def layer(cache: Path, name: str, inputs: str, build: Callable[[Path], None]) -> Path:
    """The layer's folder, built if there is none for these inputs; older ones of its kind are removed."""
    folder = cache / f"{name}-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"
    if not folder.exists():
        partial = Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=".partial", dir=cache))
        try:
            build(partial)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for other in set(cache.glob(f"{name}-*")) - {folder}:
            shutil.rmtree(other)
    return folder


def contents(places: tuple[str, ...]) -> str:
    """The names of all files in these places of the source tree, each with its content's digest."""
    return "\n".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(ROOT)}"
        for path in sorted(files_of(places))
    )


def files_of(places: tuple[str, ...]) -> Iterator[Path]:
    for name in places:
        place = ROOT / name
        found = [place] if place.is_file() else place.rglob("*")
        yield from (path for path in found if path.is_file() and "__pycache__" not in path.parts)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
