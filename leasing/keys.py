"""Keys: the portal's own, which signs commands and the heads of the audit log, and those of hosts."""

from __future__ import annotations

import base64
import os
import tempfile
from functools import cache
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from nacl.encoding import HexEncoder, RawEncoder
from nacl.hash import blake2b
from nacl.secret import Aead
from nacl.signing import SigningKey

from hosts.models import Host
from hosts.protocol.signing import REPORT, Verifier, public_hex, verify_key


def portal_signing_key() -> SigningKey:
    """The key in settings.SIGNING_KEY_FILE; made, readable by its owner alone, when there is none yet."""
    return _load(settings.SIGNING_KEY_FILE)


def public_key() -> str:
    """The key by which what the portal signs is checked, in hex."""
    return public_hex(portal_signing_key())


def report_verifier(host: Host) -> Verifier:
    """Opens what the host sends now."""
    return Verifier({host.key_id: verify_key(host.signing_key)}, REPORT)


def stored_report_verifier(host: Host) -> Verifier:
    """Opens what the host has sent and we have stored, whatever key it had then."""
    former = {key.key_id: verify_key(key.signing_key) for key in host.former_keys.all()}
    return Verifier({**former, host.key_id: verify_key(host.signing_key)}, REPORT)


def seal_storage_key(key: bytes, volume_id: UUID) -> str:
    """The key of a volume or snapshot as the database keeps it. What signs commands opens it for that one."""
    return base64.b64encode(_home_box().encrypt(key, volume_id.bytes)).decode()


def open_storage_key(sealed: str, volume_id: UUID) -> bytes:
    """The key. CryptoError if it is another one's, or was sealed by another portal."""
    return _home_box().decrypt(base64.b64decode(sealed), volume_id.bytes)


def _home_box() -> Aead:
    seed = bytes(portal_signing_key())
    return Aead(
        blake2b(b"", key=seed, digest_size=Aead.KEY_SIZE, person=b"leasehold-home", encoder=RawEncoder)
    )


@cache
def _load(path: Path) -> SigningKey:
    if not path.exists():
        _create(path)
    if path.stat().st_mode & 0o077:
        raise ImproperlyConfigured(f"{path} must be readable by its owner alone: chmod 600 it.")
    return SigningKey(path.read_bytes().strip(), encoder=HexEncoder)


def _create(path: Path) -> None:
    """A complete file appears under the name, or none; of two that try at once, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".key-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(SigningKey.generate().encode(HexEncoder) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        Path(draft).unlink()
