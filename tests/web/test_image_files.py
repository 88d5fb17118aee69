"""Files of images: uploaded by page and API, fetched by a real host worker's fetcher, shown on the way."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from hosts.agent.fetching import Fetcher
from hosts.agent.pieces import PortalSource, Source
from hosts.agent.portal_client import PortalError
from hosts.protocol.images import PIECE_BYTES, HeldImage, HoldImages
from hosts.protocol.images import ImageCopies as CopiesReport
from leasing.imaging.conversion import convert_upload
from leasing.imaging.copies import order_copies
from leasing.imaging.uploads import add_piece, begin_upload
from leasing.models import Image, ImageCopy, ImageUpload, OutboxMessage, StoredImage
from tests.agent.host_in_a_box import HOST, a_box
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site

API = "/api/v1/image-uploads/"
CONTENT = os.urandom(3 << 20) + bytes(2 << 20) + b"root" * 128


def begin(client: Client, **changes: Any) -> Any:
    said = {"file_name": "debian 12.raw", "format": "raw", "size": len(CONTENT)} | changes
    return client.post(API, json.dumps(said), content_type="application/json")


def put(client: Client, upload: str, offset: object, data: bytes) -> Any:
    url = f"{API}{upload}/?offset={offset}"
    return client.put(url, data, content_type="application/octet-stream")


def uploaded(client: Client) -> str:
    """All of it, in two pieces, checked and converted."""
    upload: str = begin(client, digest=hashlib.sha256(CONTENT).hexdigest()).json()["id"]
    half = len(CONTENT) // 2
    assert put(client, upload, 0, CONTENT[:half]).json()["received"] == half
    assert put(client, upload, half, CONTENT[half:]).json()["state"] == "waiting"
    assert convert_upload(UUID(upload), clock=timezone.now).state == "ready"
    return upload


def test_a_file_comes_in_pieces_and_becomes_a_version(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    upload = uploaded(client)
    told = client.get(f"{API}{upload}/").json()
    assert (told["state"], told["digest"]) == ("ready", hashlib.sha256(CONTENT).hexdigest())
    new = {"slug": "debian", "name": "Debian", "os_family": "linux", "upload": upload}
    answer = client.post("/api/v1/image-versions/", json.dumps(new), content_type="application/json")
    assert (answer.status_code, answer.json()["distributed"]) == (201, True)
    assert answer.json()["file_name"] == f"debian-12-{told['digest'][:12]}"
    assert client.delete(f"{API}{upload}/").status_code == 204
    assert client.get(f"{API}{upload}/").status_code == 404
    assert StoredImage.objects.exists()


def test_what_is_wrong_with_a_piece_is_said(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    upload = begin(client).json()["id"]
    put(client, upload, 0, b"first")
    again = put(client, upload, 0, b"first")
    assert (again.status_code, again.json()["type"]) == (409, "urn:leasehold:problem:other-offset")
    assert put(client, upload, 5, b"x" * (PIECE_BYTES + 1)).status_code == 400
    for offset in ("", "-1", "x", "9" * 30):
        assert put(client, upload, offset, b"x").status_code == 400
    assert begin(client, format="iso").status_code == 400
    assert begin(client, size=0).status_code == 400
    text = client.put(f"{API}{upload}/?offset=5", "text", content_type="text/plain")
    assert text.status_code == 415


def test_only_operators_bring_files_and_auditors_read(scene: Scene, sign_in: SignIn) -> None:
    upload = begin(sign_in(scene.operator)).json()["id"]
    auditor, member = sign_in(scene.auditor), sign_in(scene.ada)
    assert auditor.get(API).json()["results"][0]["id"] == upload
    for client in (auditor, member):
        assert begin(client).status_code == 404
        assert put(client, upload, 0, b"x").status_code == 404
        assert client.delete(f"{API}{upload}/").status_code == 404
        assert client.post(reverse("upload-image")).status_code == 404
        assert client.post(reverse("remove-image-upload", args=[upload])).status_code == 404
    for url in (API, f"{API}{upload}/", "/api/v1/image-copies/", reverse("images-live")):
        assert auditor.get(url).status_code == 200
        assert member.get(url).status_code == 404


def test_a_form_without_javascript_uploads_the_whole_file(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    sent = {"file": SimpleUploadedFile("debian.raw", CONTENT), "format": "raw", "digest": ""}
    page = client.post(reverse("upload-image"), sent, follow=True).content.decode()
    assert "debian.raw has arrived and is being checked" in page
    upload = ImageUpload.objects.get()
    assert (upload.state, upload.received, upload.by) == ("waiting", len(CONTENT), scene.operator)
    nothing = client.post(reverse("upload-image"), {"format": "raw", "back": reverse("images")}, follow=True)
    assert "Choose a file." in nothing.content.decode()
    client.post(reverse("remove-image-upload", args=[upload.pk]))
    assert not ImageUpload.objects.exists()


def test_the_page_shows_uploads_and_copies(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    upload = uploaded(client)
    bad = begin(client, file_name="broken.qcow2", format="qcow2", size=5).json()["id"]
    put(client, bad, 0, b"wrong")
    convert_upload(UUID(bad), clock=timezone.now)
    begin(client, file_name="half.raw")
    new = {"slug": "debian", "name": "Debian", "os_family": "linux", "upload": upload}
    client.post(reverse("add-image"), new)
    assert Image.objects.get(slug="debian").stored is not None
    order_copies(timezone.now())
    copy = ImageCopy.objects.get()
    for facts, words in (
        ({"state": "fetching", "done": copy.stored.size // 2}, "being fetched, 50"),
        ({"state": "failed", "reason": "The disk is full."}, "The disk is full."),
        ({"state": "held", "reason": ""}, copy.stored.name),
        ({"wanted": False}, "about to be removed"),
    ):
        ImageCopy.objects.update(**facts)
        for url in (reverse("images"), reverse("images-live"), reverse("host", args=[copy.host_id])):
            assert words in client.get(url).content.decode()
    page = client.get(reverse("images")).content.decode()
    assert "It cannot be read as qcow2." in page
    assert "half.raw" in page
    assert "from the portal, by itself" in page
    told = client.get("/api/v1/image-copies/").json()["results"]
    assert [each["file_name"] for each in told] == [copy.stored.name]


class _Wire:
    """An HTTP connection that ends in the portal's own view."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def request(self, method: str, path: str, body: str, headers: dict[str, str]) -> None:
        assert (method, headers["Content-Type"]) == ("POST", "application/json")
        self._answer = self._client.post(path, body, content_type="application/json")

    def getresponse(self) -> Any:
        answer = self._answer
        return SimpleNamespace(
            status=answer.status_code,
            reason=answer.reason_phrase,
            headers=answer.headers,
            read=lambda most: answer.content[:most],
        )

    def close(self) -> None:
        """Nothing to close."""


def test_a_host_fetches_what_was_uploaded(scene: Scene, sign_in: SignIn, tmp_path: Path) -> None:
    uploaded(sign_in(scene.operator))
    stored = StoredImage.objects.get()
    with a_box(tmp_path / "host") as box:
        row = scene.host.row
        row.refresh_from_db()
        row.account, row.signing_key = HOST, box.signing.verify_key.encode().hex()
        row.key_id = scene_key_id(row.signing_key)
        row.save()

        @contextmanager
        def portal() -> Iterator[Source]:
            yield PortalSource(_Wire(Client()), box.config, box.signing, timezone.now)  # type: ignore[arg-type]

        image = HeldImage(name=stored.name, digest=stored.digest, size=stored.size, data=stored.data)
        box.deliver(HoldImages(images=(image,)), subject=f"images:{HOST}")
        with portal() as source, pytest.raises(PortalError, match="404"):
            source.ask(stored.digest, 0)  # it is not to hold it yet
        ImageCopy.objects.create(host=row, stored=stored, changed_at=timezone.now())
        Fetcher(box.rig, portal).look()
        path = box.config.images_directory / f"{stored.name}.raw"
        assert path.read_bytes() == CONTENT
        assert box.last(CopiesReport).copies[0].state == "held"
    assert not OutboxMessage.objects.filter(kind="images").exists()


def scene_key_id(public: str) -> str:
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:16]


def half_uploaded(scene: Scene) -> ImageUpload:
    """What an earlier attempt has left."""
    actor = scene.actor(scene.operator)
    facts: dict[str, Any] = {"file_name": "debian.raw", "format": "raw", "size": len(CONTENT)}
    upload = begin_upload(actor=actor, now=timezone.now(), **facts)
    half = CONTENT[: len(CONTENT) // 2]
    return add_piece(actor=actor, upload_id=upload.pk, offset=0, data=half, now=timezone.now())


def test_a_browser_goes_on_and_the_page_follows(site: Site, visits: Visits, tmp_path: Path) -> None:
    file = tmp_path / "debian.raw"
    file.write_bytes(CONTENT)
    upload = site.do(half_uploaded)
    page = visits.page(site.scene.operator, width=390)
    page.goto(reverse("images"))
    page.get_by_text("being uploaded").wait_for()
    page.set_input_files("#file", file)
    page.select_option("#upload-format", "raw")
    page.get_by_role("button", name="Upload").click()
    page.get_by_text("All of it has arrived and is being checked.").wait_for()
    page.get_by_text("waits to be converted").wait_for()
    site.do(lambda _scene: convert_upload(upload.pk, clock=timezone.now))
    page.get_by_text(hashlib.sha256(CONTENT).hexdigest()).wait_for()
    assert site.do(lambda _scene: ImageUpload.objects.count()) == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_browser_says_what_is_refused(site: Site, visits: Visits, tmp_path: Path) -> None:
    file = tmp_path / "debian.raw"
    file.write_bytes(b"x")
    page = visits.page(site.scene.operator)
    page.goto(reverse("images"))
    page.set_input_files("#file", file)
    page.fill("#upload-digest", "short")
    page.get_by_role("button", name="Upload").click()
    page.locator("[data-said]", has_text="Enter a valid value").wait_for()
