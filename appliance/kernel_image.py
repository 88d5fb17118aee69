"""A `direct-kernel` image: a kernel, an initramfs, and a manifest whose digest stands for both."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance import debian, initramfs

KERNEL, INITRD, MANIFEST = "vmlinux", "initrd.img", "manifest.json"


def build_image(
    folder: Path,
    *,
    packages: Sequence[str],
    recipe: Sequence[str],
    contents: Callable[[Mapping[str, Path]], dict[str, initramfs.Entry]],
    cmdline: str,
    cache: Path,
) -> Path:
    """An image of Debian's kernel and of `contents`, unless it is there, made from the same.

    `recipe` are the files that say how it is made; `contents` is given where each package was unpacked,
    the kernel's as "kernel". Returns the manifest's path.
    """
    kernel = debian.kernel_package()
    debs = debian.fetch_all([kernel, *packages], cache)
    debs["kernel"] = debs.pop(kernel)
    sources = [*recipe, __file__, debian.__file__, initramfs.__file__]
    made_from = {name: deb.name for name, deb in debs.items()} | {"recipe": digest_of(*map(Path, sources))}
    if is_current(folder, made_from):
        return folder / MANIFEST
    with tempfile.TemporaryDirectory() as scratch:
        roots = {name: debian.unpack(deb, Path(scratch) / name) for name, deb in debs.items()}
        compressed = next(roots["kernel"].glob("boot/vmlinuz-*")).read_bytes()
        return write_image(
            folder,
            kernel=debian.uncompressed(compressed),
            initrd=initramfs.pack(contents(roots)),
            cmdline=cmdline,
            made_from=made_from,
        )


def is_current(folder: Path, made_from: dict[str, str]) -> bool:
    """Whether the image in the folder was made from the same."""
    manifest = folder / MANIFEST
    return manifest.exists() and json.loads(manifest.read_bytes())["made_from"] == made_from


def write_image(
    folder: Path, *, kernel: bytes, initrd: bytes, cmdline: str, made_from: dict[str, str], **more: Any
) -> Path:
    """Write the three files; the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {KERNEL: kernel, INITRD: initrd}
    for name, data in files.items():
        _replace(folder / name, data)
    facts = {
        "kernel": KERNEL,
        "initrd": INITRD,
        "cmdline": cmdline,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "made_from": made_from,
        **more,
    }
    _replace(folder / MANIFEST, json.dumps(facts, indent=2, sort_keys=True).encode() + b"\n")
    return folder / MANIFEST


def digest_of(*files: Path) -> str:
    """One digest for what these files hold together."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Whoever reads `path` meanwhile sees the old file or the new one, never half of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)
