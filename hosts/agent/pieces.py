"""Asks the portal for an image, one signed request for each piece, over one connection."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from nacl.signing import SigningKey

from hosts.agent.config import Config
from hosts.agent.portal_client import NoAnswer, PortalError, connect, reason_of
from hosts.agent.spool import Clock
from hosts.protocol.images import PIECE_BYTES, PIECE_PATH, PieceRequest, sign_piece_request

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Piece:
    """Data that begins at `offset`; what lies between that and the offset that was asked for is a hole."""

    offset: int
    data: bytes


class Source(Protocol):
    """`ask` gives the next piece from an offset on, or None if there is only a hole up to the end."""

    def ask(self, digest: str, offset: int) -> Piece | None: ...


Open = Callable[[], AbstractContextManager[Source]]


class PortalSource:
    """One connection to the portal. Errors: PortalError."""

    def __init__(
        self, connection: http.client.HTTPConnection, config: Config, key: SigningKey, clock: Clock
    ) -> None:
        self._connection = connection
        self._config = config
        self._key = key
        self._clock = clock

    def ask(self, digest: str, offset: int) -> Piece | None:
        request = PieceRequest(host=self._config.host, digest=digest, offset=offset, at=self._clock())
        body = json.dumps({"envelope": sign_piece_request(request, key=self._key)})
        try:
            return self._ask(body, offset)
        except (OSError, http.client.HTTPException):
            self._connection.close()  # it was kept too long, perhaps: once more over a new one
        try:
            return self._ask(body, offset)
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{self._config.portal} did not answer: {reason_of(error)}.") from error

    def _ask(self, body: str, offset: int) -> Piece | None:
        self._connection.request("POST", PIECE_PATH, body, _HEADERS)
        response = self._connection.getresponse()
        return _piece(response, response.read(PIECE_BYTES + 1), offset)


def _piece(response: http.client.HTTPResponse, data: bytes, asked: int) -> Piece | None:
    if response.status == http.HTTPStatus.NO_CONTENT:
        return None
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        raise PortalError(f"The portal answers {response.status} {response.reason}.")
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    first, last = (int(found[1]), int(found[2])) if found else (-1, -1)
    if first < asked or not data or last - first + 1 != len(data) or len(data) > PIECE_BYTES:
        raise PortalError("The portal's answer is not the piece that was asked for.")
    return Piece(first, data)


@contextmanager
def portal_source(config: Config, key: SigningKey, clock: Clock) -> Iterator[Source]:
    """Asks the portal that this host is enrolled at. PortalError if there is no way to it."""
    connection = connect(config.portal, ca_file=config.ca_file)
    try:
        yield PortalSource(connection, config, key, clock)
    finally:
        connection.close()
