"""Golden images: the digest decides, the format is stated, and nothing comes from a second file."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from hosts.agent.domain import Backing, DirectKernel
from hosts.agent.images import ImageError, open_disk_image, open_kernel_image, sha256_of


@pytest.fixture
def kernel_image(tmp_path: Path) -> Path:
    files = {"vmlinux": b"kernel", "initrd.img": b"initramfs"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {"kernel": "vmlinux", "initrd": "initrd.img", "cmdline": "quiet", "sha256": digests}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def digest_of(image: Path) -> str:
    return sha256_of(image / "manifest.json")


def test_a_kernel_image_boots_what_its_manifest_names(kernel_image: Path) -> None:
    boot = open_kernel_image(kernel_image, digest_of(kernel_image), cmdline="leasehold.name=one")
    assert boot == DirectKernel(
        kernel_image / "vmlinux", kernel_image / "initrd.img", "quiet leasehold.name=one"
    )


@pytest.mark.parametrize("name", ["manifest.json", "vmlinux", "initrd.img"])
def test_a_changed_file_of_a_kernel_image_is_refused(kernel_image: Path, name: str) -> None:
    digest = digest_of(kernel_image)
    with (kernel_image / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ImageError, match=f"{name} has the digest"):
        open_kernel_image(kernel_image, digest)


def test_a_manifest_that_is_none_is_refused(kernel_image: Path) -> None:
    (kernel_image / "manifest.json").write_text("[]")
    with pytest.raises(ImageError, match="not a kernel image's manifest"):
        open_kernel_image(kernel_image, digest_of(kernel_image))


def qcow2(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "1M"], check=True)
    return path


def test_a_disk_image_that_stands_alone_is_opened(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "golden.qcow2")
    assert open_disk_image(image, "qcow2", sha256_of(image)) == Backing(image, "qcow2")


def test_a_changed_disk_image_is_refused(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "golden.qcow2")
    with pytest.raises(ImageError, match="has the digest"):
        open_disk_image(image, "qcow2", "0" * 64)


def test_a_missing_disk_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        open_disk_image(tmp_path / "missing", "qcow2", "0" * 64)


def test_a_disk_image_over_another_is_refused(tmp_path: Path) -> None:
    base = qcow2(tmp_path / "base.qcow2")
    image = qcow2(tmp_path / "golden.qcow2", "-F", "qcow2", "-b", str(base))
    with pytest.raises(ImageError, match="must stand alone"):
        open_disk_image(image, "qcow2", sha256_of(image))


def test_a_disk_image_with_its_data_elsewhere_is_refused(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "golden.qcow2", "-o", f"data_file={tmp_path / 'elsewhere.raw'}")
    with pytest.raises(ImageError, match="must stand alone"):
        open_disk_image(image, "qcow2", sha256_of(image))


def test_a_format_is_believed_not_guessed(tmp_path: Path) -> None:
    image = tmp_path / "really-raw.img"
    image.write_bytes(bytes(1 << 20))
    with pytest.raises(ImageError, match="is not a qcow2 image"):
        open_disk_image(image, "qcow2", sha256_of(image))
