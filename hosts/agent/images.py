"""Golden images on this host. Nothing starts from one whose digest was not found right."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path

import msgspec

from hosts.agent.digests import Digests
from hosts.agent.domain import Backing, DirectKernel, DiskFormat

MANIFEST = "manifest.json"
_DIGESTS = Digests()


class ImageError(Exception):
    """The image is not what it should be, or not here; the text is for an operator."""


class ScrubFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the image of a scrub machine says of itself: which program is in it, and what memory it needs."""

    variant: str
    memory_mib: int


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kernel: str
    initrd: str
    cmdline: str
    sha256: dict[str, str]
    made_from: dict[str, str] = {}
    scrub: ScrubFacts | None = None


def sha256_of(path: Path) -> str:
    try:
        return _DIGESTS.of(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error


def require_digest(path: Path, digest: str) -> None:
    found = sha256_of(path)
    if found != digest:
        raise ImageError(
            f"{path} has the digest {found[:12]}…, not {digest[:12]}…: it was changed or damaged."
        )


def open_kernel_image(directory: Path, digest: str, *, cmdline: str = "") -> DirectKernel:
    """The kernel and initramfs whose manifest has that digest. `cmdline` follows the manifest's own."""
    manifest = _manifest(directory, digest)
    for name in (manifest.kernel, manifest.initrd):
        require_digest(directory / name, manifest.sha256.get(name, ""))
    return DirectKernel(
        kernel=directory / manifest.kernel,
        initrd=directory / manifest.initrd,
        cmdline=f"{manifest.cmdline} {cmdline}".strip(),
    )


def read_scrub_facts(directory: Path, digest: str) -> ScrubFacts:
    """Of the image of a scrub machine. Its kernel is not looked at before it is started."""
    facts = _manifest(directory, digest).scrub
    if facts is None:
        raise ImageError(f"{directory} is not the image of a scrub machine.")
    return facts


def _manifest(directory: Path, digest: str) -> _Manifest:
    require_digest(directory / MANIFEST, digest)
    try:
        return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=_Manifest)
    except msgspec.DecodeError as error:
        raise ImageError(f"{directory / MANIFEST} is not a kernel image's manifest: {error}.") from error


def open_disk_image(path: Path, format: DiskFormat, digest: str) -> Backing:
    """The disk image, if it has that digest and stands alone. `format` is believed, never guessed."""
    require_digest(path, digest)
    _require_alone(path, format, digest)
    return Backing(path=path, format=format)


@functools.lru_cache(maxsize=1000)
def _require_alone(path: Path, format: DiskFormat, digest: str) -> None:
    """Asked once: what has the same digest says the same. ImageError is not kept."""
    command = ["qemu-img", "info", "--output=json", "-f", format, str(path)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        raise ImageError(f"{path} is not a {format} image: {result.stderr.strip()}")
    facts = json.loads(result.stdout)
    if "backing-filename" in facts or "data-file" in facts.get("format-specific", {}).get("data", {}):
        raise ImageError(f"{path} takes its data from another file; a golden image must stand alone.")
