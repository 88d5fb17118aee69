"""The portal's door as a host meets it: a real HTTP server that signs its answers, and has its moods."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

from nacl.signing import SigningKey

from hosts.protocol.codec import PROTOCOL
from hosts.protocol.enrolment import (
    ENROLMENT_PATH,
    EnrolmentAnswer,
    EnrolmentRequest,
    RekeyRequest,
    digest_of,
    open_enrolment,
    open_rekey,
    rekey_claims,
    sign_answer,
    token_text,
)
from hosts.protocol.signing import public_hex, seal


@dataclass
class FakePortal:
    """`mood` is how it answers the next requests: kindly, with a status, or not at all."""

    key: SigningKey = field(default_factory=SigningKey.generate)
    host: str = "hv7"
    mood: str | int = "kind"
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[EnrolmentRequest | RekeyRequest] = field(default_factory=list)
    known_key: str = ""
    url: str = ""

    @property
    def token(self) -> str:
        return token_text("s" * 43, portal_key=self.key)

    def answer(self, path: str, envelope: str) -> str:
        """As the portal does, without its scruples."""
        request: EnrolmentRequest | RekeyRequest
        if path == ENROLMENT_PATH:
            request = open_enrolment(envelope)
        else:
            request = open_rekey(envelope, old_public=self.known_key)
            assert rekey_claims(envelope)[1] == request
        self.asked.append(request)
        self.known_key = request.keys.signing_key
        broker = f"redis://host-{self.host}:password@broker.example/0"
        told = EnrolmentAnswer(
            protocol=PROTOCOL,
            request=digest_of(envelope if self.mood != "to another" else "another"),
            host=self.host,
            control_key=public_hex(self.key),
            sealed_broker_url=seal(broker.encode(), to_public_hex=request.keys.sealing_key),
        )
        return sign_answer(told, key=self.key)


class _Door(BaseHTTPRequestHandler):
    portal: FakePortal

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        portal = self.portal
        if portal.mood == "deaf":
            self.connection.close()
            return
        if isinstance(portal.mood, int):
            self._say(portal.mood, {"detail": "This host is not let in.", "hint": "Ask an operator."})
            return
        answer = portal.answer(self.path, sent["envelope"])
        if portal.mood == "forgetful":
            self.connection.close()
            return
        self._say(201, {"envelope": answer} if portal.mood != "strange" else {"something": "else"})

    def _say(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in self.portal.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what matters."""


@contextmanager
def serving(
    portal: FakePortal, *, certificate: Path | None = None, key: Path | None = None
) -> Iterator[None]:
    """At `portal.url`, encrypted if there is a certificate."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Door", (_Door,), {"portal": portal}))
    scheme = "http"
    if certificate is not None:
        context = SSLContext(PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    portal.url = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
