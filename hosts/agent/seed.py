"""The NoCloud seed: a small disk from which cloud-init learns, at the first start, whose machine this is.

It holds names, public keys, and the machine's own SSH host key; cloud-init looks for it at every start, so it
stays as long as the machine, and goes with it.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from pycdlib.pycdlib import PyCdlib

from hosts.agent.host_key import HostKey
from hosts.protocol.messages import GuestOrder, Mount

# The label by which cloud-init finds it.
LABEL = "cidata"


def user_data(guest: GuestOrder, host_key: HostKey) -> bytes:
    """The `user-data` file. JSON is YAML, and needs no quoting of its own."""
    user = {
        "name": guest.user,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": True,
        "ssh_authorized_keys": list(guest.ssh_keys),
    }
    config: dict[str, Any] = {
        "hostname": guest.hostname,
        "manage_etc_hosts": "localhost",
        "users": [user],
        "disable_root": True,
        "ssh_pwauth": False,
        # The only one: a client that offered to trust another kind would not know it.
        "ssh_keys": {"ed25519_private": host_key.private, "ed25519_public": host_key.public},
        "mounts": [_fstab_fields(mount) for mount in guest.mounts],
    }
    if any(mount.target == f"/home/{guest.user}" for mount in guest.mounts):
        config |= _keys_beside_home(guest)
    return b"#cloud-config\n" + msgspec.json.format(msgspec.json.encode(config)) + b"\n"


def _keys_beside_home(guest: GuestOrder) -> dict[str, Any]:
    """A home that outlives the machine would admit keys that its owner has withdrawn: only these count."""
    files = {
        f"/etc/ssh/authorized_keys.d/{guest.user}": "".join(f"{key}\n" for key in guest.ssh_keys),
        "/etc/ssh/sshd_config.d/10-leasehold.conf": "AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u\n",
    }
    return {
        "write_files": [{"path": path, "content": text} for path, text in files.items()],
        # The account may have another number than the one that the volume was made for.
        "runcmd": [["chown", f"{guest.user}:", f"/home/{guest.user}"]],
    }


def meta_data(guest: GuestOrder, instance: UUID) -> bytes:
    """The `meta-data` file. What cloud-init has done for one instance it does not do again."""
    return msgspec.json.encode({"instance-id": str(instance), "local-hostname": guest.hostname}) + b"\n"


def write_seed(path: Path, guest: GuestOrder, *, instance: UUID, host_key: HostKey) -> None:
    """Write the seed of a machine. It appears under its name only when it is complete."""
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    files = {"user-data": user_data(guest, host_key), "meta-data": meta_data(guest, instance)}
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(_iso(files))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _iso(files: dict[str, bytes]) -> bytes:
    """An ISO 9660 image; the names are those of its Joliet and Rock Ridge extensions."""
    iso = PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, data) in enumerate(files.items()):
        iso.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()


def _fstab_fields(mount: Mount) -> list[str]:
    return [mount.source, mount.target, mount.type, mount.options, "0", "0"]
