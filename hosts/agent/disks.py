"""Scratch disks: made for one lease, encrypted with a key born on this host, erased by destroying it.

And what home volumes are made with, whose key comes from elsewhere and never lies beside them.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hosts.agent.domain import Backing

# Holds the LUKS header of a fresh encrypted qcow2 file, which is what a copied key would need.
HEADER_BYTES = 4 * 1024 * 1024
# QEMU times how fast it stretches keys, and gives up if its CPU clock did not move meanwhile. A fast
# processor is done between two ticks of the kernel: often with SHA-256, hardly ever with SHA-512.
CLOCK_STOOD_STILL = "Unable to get accurate CPU usage"
CLOCK_TRIES = 50


class DiskError(Exception):
    """The disk could not be made or destroyed; the text is for an operator."""


def key_path(disk: Path) -> Path:
    return disk.with_name(f"{disk.name}.key")


def exists(disk: Path) -> bool:
    """Whether anything of it is left, be it the key alone."""
    return disk.exists() or key_path(disk).exists()


def read_key(disk: Path) -> bytes:
    """What the hypervisor needs to open the disk."""
    try:
        return key_path(disk).read_bytes()
    except OSError as error:
        raise DiskError(f"The key of {disk} cannot be read: {error.strerror}.") from error


@dataclass(frozen=True)
class Original:
    """A qcow2 disk to copy, and the key that opens it, if it is encrypted."""

    path: Path
    key: bytes | None


def create_scratch(
    disk: Path,
    *,
    size_gib: int,
    backing: Backing | None = None,
    original: Original | None = None,
    encrypted: bool = True,
) -> None:
    """A qcow2 disk, empty, over a golden image, or with all that an original holds, which is no larger.

    One that exists is kept, with what the tenant wrote.

    It appears under its name only when it is complete, so what a crash interrupted is made again.
    """
    if disk.exists():
        return
    disk.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    partial = disk.with_name(f"{disk.name}.partial")
    partial.unlink(missing_ok=True)
    options = _encryption(str(_make_key(disk))) if encrypted else []
    _qemu_img("create", "-q", "-f", "qcow2", *options, *_over(backing), str(partial), f"{size_gib}G")
    if original is not None:
        _fill(partial, original, key=read_key(disk) if encrypted else None)
    partial.chmod(0o600)
    sync(partial)
    partial.replace(disk)
    sync(disk.parent)


def destroy_scratch(disk: Path) -> None:
    """The key first, then the header that it opened, then the file. What is already gone is skipped."""
    for path in (key_path(disk), disk, disk.with_name(f"{disk.name}.partial")):
        destroy(path)
    if disk.parent.exists():
        sync(disk.parent)


def destroy(path: Path) -> None:
    """Overwrite the header, then remove the file, if there is one."""
    if path.exists():
        _overwrite_start(path)
        path.unlink()


def convert(plain: Path, disk: Path, *, key: bytes | None) -> None:
    """A qcow2 disk with what a raw file holds, encrypted if there is a key, which touches no file system."""
    if key is None:
        _qemu_img("convert", "-f", "raw", "-O", "qcow2", str(plain), str(disk))
    else:
        with _in_memory(key) as handle:
            options = _encryption(f"/proc/self/fd/{handle}")
            _qemu_img(
                "convert", "-f", "raw", "-O", "qcow2", *options, str(plain), str(disk), pass_fds=(handle,)
            )
    disk.chmod(0o600)


def copy(original: Original, disk: Path, *, key: bytes | None) -> None:
    """A qcow2 disk with all that the original and what it lies over hold, encrypted if there is a key."""
    with _opened(original, "original") as (options, name, handles), _in_memory(key or b"") as handle:
        own = _encryption(f"/proc/self/fd/{handle}") if key is not None else []
        _qemu_img(
            "convert", *options, *own, "--image-opts", "-O", "qcow2", name, str(disk),
            pass_fds=(*handles, handle),
        )  # fmt: skip
    disk.chmod(0o600)


def _fill(disk: Path, original: Original, *, key: bytes | None) -> None:
    """Write all that the original holds to a new disk. DiskError if the original was removed meanwhile."""
    with (
        _opened(original, "original") as (options, name, handles),
        _opened(Original(disk, key), "copy") as (more, copy_name, others),
    ):
        _qemu_img(
            "convert", *options, *more, "-n", "--target-is-zero", "--image-opts", "--target-image-opts", name,
            copy_name, pass_fds=(*handles, *others),
        )  # fmt: skip
    if not original.path.exists():
        raise DiskError(f"{original.path} was removed while it was read.")


@contextmanager
def _opened(disk: Original, name: str) -> Iterator[tuple[list[str], str, tuple[int, ...]]]:
    """How qemu-img is told of a disk: options, the disk, and the handles that it inherits."""
    said = f"driver=qcow2,file.filename={_escaped(str(disk.path))}"
    if disk.key is None:
        yield [], said, ()
    else:
        with _in_memory(disk.key) as handle:
            secret = f"secret,id={name},file=/proc/self/fd/{handle}"
            said += f",encrypt.format=luks,encrypt.key-secret={name}"
            yield ["--object", secret], said, (handle,)


def write_private(path: Path, data: bytes) -> None:
    """A new file, readable by its owner alone, surely on the disk."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _in_memory(key: bytes) -> Iterator[int]:
    handle = os.memfd_create("key")
    try:
        os.write(handle, key)
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


def _encryption(key_file: str) -> list[str]:
    """The key has 256 random bits: stretching it would only cost time, hence the short `iter-time` (ms)."""
    secret = f"secret,id=key,file={_escaped(key_file)}"
    options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10,encrypt.hash-alg=sha512"
    return ["--object", secret, "-o", options]


def _make_key(disk: Path) -> Path:
    """A fresh key, in hexadecimal because QEMU wants text. One that a crash left behind opens nothing."""
    path = key_path(disk)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    sync(path)
    return path


def _over(backing: Backing | None) -> list[str]:
    return [] if backing is None else ["-F", backing.format, "-b", str(backing.path)]


def _escaped(path: str) -> str:
    """A comma would end the option."""
    return path.replace(",", ",,")


def _overwrite_start(path: Path) -> None:
    """Best effort: file systems that copy on write keep the old blocks for a while."""
    with path.open("r+b") as file:
        file.write(bytes(min(HEADER_BYTES, path.stat().st_size)))
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """What was written to a file, or to a folder, is surely on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _qemu_img(*arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
    for left in reversed(range(CLOCK_TRIES)):
        result = subprocess.run(
            ["qemu-img", *arguments], check=False, capture_output=True, text=True, pass_fds=pass_fds
        )
        if result.returncode == 0:
            return
        if left == 0 or CLOCK_STOOD_STILL not in result.stderr:
            raise DiskError(f"qemu-img {arguments[0]} failed: {result.stderr.strip()}")
