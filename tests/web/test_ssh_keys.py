"""SSH keys: read strictly, kept by their person alone, told to nobody else."""

from __future__ import annotations

import base64
import json
import struct
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from django.test import Client

from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.models import AuditEntry, SshKey
from leasing.ssh_keys import MOST_KEYS, add_ssh_key, read_public_key, remove_ssh_key
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

KNOWN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGIVdXM+GJSIWZABFD3ltQ8IYOYCXkPHxyFmxyZ0fIZL"
# The base64 of the SHA-256 of its bytes, without padding, as OpenSSH writes it.
KNOWN_FINGERPRINT = "SHA256:8gvXTaBQx2dPzgzKI9PAUYOp2XmwKMpD8okgUWO3/tc"


def line(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def new_line() -> str:
    return line(ed25519.Ed25519PrivateKey.generate())


def security_key() -> str:
    """A key on a hardware token has an application beside it."""
    kind = "sk-ssh-ed25519@openssh.com"
    raw = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    parts = (kind.encode(), raw, b"ssh:")
    blob = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return f"{kind} {base64.b64encode(blob).decode()}"


@pytest.mark.parametrize(
    "text",
    [
        KNOWN,
        line(rsa.generate_private_key(65537, 2048)),
        line(ec.generate_private_key(ec.SECP256R1())),
        security_key(),
    ],
    ids=lambda text: text.split()[0],
)
def test_a_key_is_kept_as_its_type_and_its_bytes(text: str) -> None:
    key = read_public_key(f" {text}  ada@studio (laptop)\r\n")
    assert (key.text, key.comment) == (text, "ada@studio (laptop)")


def test_the_fingerprint_is_the_one_that_ssh_shows() -> None:
    assert read_public_key(KNOWN).fingerprint == KNOWN_FINGERPRINT


PRIVATE = ed25519.Ed25519PrivateKey.generate().private_bytes(
    Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an SSH public key"),
        ("ssh-ed25519", "damaged"),
        (KNOWN[:-8], "damaged"),
        (KNOWN.replace("ssh-ed25519", "ssh-rsa"), "damaged"),
        (f"{KNOWN[:-4]}!!!!", "damaged"),
        (f'command="/bin/sh" {KNOWN}', "not an SSH public key"),
        (f"{KNOWN}\n{KNOWN}", "not an SSH public key"),
        (f"ssh-ed25519-cert-v01@openssh.com {KNOWN.split()[1]}", "not an SSH public key"),
        (KNOWN.replace("ssh-ed25519", "ssh-dss"), "not an SSH public key"),
        (f"ssh-rsa {'A' * 5000}", "not an SSH public key"),
        (line(rsa.generate_private_key(65537, 1024)), "too short"),  # noqa: S505
        (PRIVATE.decode(), "private key"),
    ],
)
def test_what_is_not_a_good_public_key_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        read_public_key(text)


def add(scene: Scene, text: str, *, who: str = "ada", name: str = "") -> SshKey:
    actor = scene.actor(scene.everybody()[who])
    return add_ssh_key(actor=actor, line=text, name=name, now=datetime.now(UTC))


def test_a_person_has_each_key_once_and_so_many(scene: Scene) -> None:
    first = add(scene, f"{KNOWN} laptop")
    assert first.name == "laptop"
    with pytest.raises(WrongState, match="already"):
        add(scene, KNOWN)
    add(scene, KNOWN, who="bob")
    for _ in range(MOST_KEYS - 1):
        add(scene, new_line(), name="another")
    with pytest.raises(WrongState, match=str(MOST_KEYS)):
        add(scene, new_line())
    with pytest.raises(NotVisible):
        remove_ssh_key(actor=scene.actor(scene.bob), key_id=first.pk, now=datetime.now(UTC))
    remove_ssh_key(actor=scene.actor(scene.ada), key_id=first.pk, now=datetime.now(UTC))
    add(scene, new_line())


@pytest.mark.parametrize("name", ["x" * 61, "a\x00b", "a\u202eb"])
def test_a_name_is_short_and_can_be_read(scene: Scene, name: str) -> None:
    with pytest.raises(InvalidRequest):
        add(scene, KNOWN, name=name)


def test_the_page_adds_and_removes_and_the_log_knows(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    client.post("/account/ssh-keys/", {"key": f"{KNOWN} laptop", "back": "/account/"})
    page = client.get("/account/").content.decode()
    assert "laptop" in page
    assert KNOWN_FINGERPRINT in page
    row = SshKey.objects.get()
    refused = client.post("/account/ssh-keys/", {"key": PRIVATE.decode(), "back": "/account/"}, follow=True)
    assert "This is the private key" in refused.content.decode()
    client.post(f"/account/ssh-keys/{row.pk}/remove/")
    assert not SshKey.objects.exists()
    told = AuditEntry.objects.filter(subject=f"person:{scene.ada.pk}", action__startswith="ssh-key.")
    assert {entry.action for entry in told} == {"ssh-key.add", "ssh-key.remove"}
    assert all(KNOWN_FINGERPRINT in entry.text for entry in told)


def test_keys_are_kept_over_the_api(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    made = post(client, key=f"{KNOWN} laptop")
    assert made.status_code == 201
    (row,) = client.get("/api/v1/ssh-keys/").json()["results"]
    assert (row["name"], row["text"], row["fingerprint"]) == ("laptop", KNOWN, KNOWN_FINGERPRINT)
    assert sign_in(scene.bob).get("/api/v1/ssh-keys/").json()["results"] == []
    assert post(client, key="nonsense").json()["errors"]
    assert client.delete(f"/api/v1/ssh-keys/{row['id']}/").status_code == 204


def test_a_token_adds_no_key(scene: Scene, sign_in: SignIn) -> None:
    token = post(sign_in(scene.ada), "/api/v1/tokens/", days=1).json()["token"]
    headers = {"authorization": f"Token {token}"}
    answer = Client(headers=headers).post(
        "/api/v1/ssh-keys/", json.dumps({"key": KNOWN}), content_type="application/json"
    )
    assert answer.status_code == 403
    assert not SshKey.objects.exists()


def post(client: Client, path: str = "/api/v1/ssh-keys/", **body: object):  # type: ignore[no-untyped-def]
    return client.post(path, json.dumps(body), content_type="application/json")
