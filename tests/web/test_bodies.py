"""No request fills the portal's disk: a body that is too large is refused before it is read."""

from __future__ import annotations

import asyncio
import http.client
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.urls import reverse

from hosts.protocol.images import PIECE_BYTES
from portal.bodies import TOO_LARGE, USUAL, bounded, most_bytes
from tests.web.site import Site


def test_only_where_images_come_in_bodies_may_be_larger() -> None:
    assert most_bytes(reverse("sign-in")) == most_bytes(reverse("api-leases")) == USUAL
    assert (
        most_bytes(reverse("api-image-upload", args=["0" * 8 + "-0000" * 3 + "-" + "0" * 12])) > PIECE_BYTES
    )
    assert most_bytes(reverse("upload-image")) > PIECE_BYTES


@pytest.mark.parametrize("length", [USUAL + 1, 10**12])
def test_what_says_that_it_is_too_large_is_not_read(site: Site, length: int) -> None:
    address = urlsplit(site.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
    connection.putrequest("POST", reverse("sign-in"))
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, response.read()) == (413, TOO_LARGE)
    connection.close()


def test_what_does_not_say_is_cut_off() -> None:
    sent: list[Any] = []
    given = 0

    async def receive() -> Any:
        nonlocal given
        given += 1
        return {"type": "http.request", "body": bytes(USUAL // 4), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    async def reads_everything(_scope: Any, receive: Any, _send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    scope = {"type": "http", "path": "/", "headers": [(b"transfer-encoding", b"chunked")]}
    with ThreadPoolExecutor(1) as thread:  # another test's browser has its own loop in this one
        thread.submit(lambda: asyncio.run(bounded(reads_everything, scope, receive, send))).result()
    assert given == 5
    assert sent[0]["status"] == 413
