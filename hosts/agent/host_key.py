"""The SSH host key of a machine: made on its host before its first start, so that its owner can know it.

As secret as the machine's disk: it is written for root alone, and destroyed with the machine.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path

from nacl.signing import SigningKey

KIND = b"ssh-ed25519"
_MAGIC = b"openssh-key-v1\0"
_NONE = b"none"


@dataclass(frozen=True)
class HostKey:
    """An Ed25519 key pair in OpenSSH's words; `fingerprint` as `ssh-keygen -l` writes it."""

    private: str
    public: str
    fingerprint: str

    def __repr__(self) -> str:
        return f"HostKey({self.fingerprint})"


def keep_host_key(path: Path) -> HostKey:
    """The key at `path`, made if there is none."""
    if not path.exists():
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(SigningKey.generate().encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    return read_host_key(path)


def read_host_key(path: Path) -> HostKey:
    key = SigningKey(path.read_bytes())
    blob = _strings(KIND, bytes(key.verify_key))
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return HostKey(
        private=_private(key, blob),
        public=f"{KIND.decode()} {base64.b64encode(blob).decode()}",
        fingerprint=f"SHA256:{digest}",
    )


def _private(key: SigningKey, blob: bytes) -> str:
    """OpenSSH's own format (PROTOCOL.key), unencrypted."""
    check = secrets.token_bytes(4)
    pair = key.encode() + bytes(key.verify_key)
    body = check + check + _strings(KIND, bytes(key.verify_key), pair, b"")
    body += bytes(range(1, 1 + -len(body) % 8))
    whole = _MAGIC + _strings(_NONE, _NONE, b"") + struct.pack(">I", 1) + _strings(blob, body)
    text = base64.b64encode(whole).decode()
    lines = [text[start : start + 70] for start in range(0, len(text), 70)]
    head, end = ("-----" + word + " OPENSSH PRIVATE KEY-----" for word in ("BEGIN", "END"))
    return "\n".join([head, *lines, end, ""])


def _strings(*values: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(value)) + value for value in values)
