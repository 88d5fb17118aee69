"""The portal's own Ed25519 key: it signs commands to hosts and the heads of the audit log."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from nacl.encoding import HexEncoder
from nacl.signing import SigningKey


def portal_signing_key() -> SigningKey:
    """The key in settings.SIGNING_KEY_FILE; made, readable by its owner alone, when there is none yet."""
    return _load(settings.SIGNING_KEY_FILE)


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
