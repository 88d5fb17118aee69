"""A console relay: exactly one machine's display, to the gateway that was named, until a side closes."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import pytest
from nacl.public import PrivateKey
from websockets.sync.server import Server, ServerConnection, serve

from hosts.agent.console import ConsoleRelays, ConsoleRoute
from hosts.agent.console_desk import ConsoleDesk
from hosts.agent.loop import Loop
from hosts.protocol.messages import ConsoleClosed, OpenConsole
from hosts.protocol.signing import public_hex, seal
from tests.agent.host_in_a_box import Box, a_box, wait_for

LEASE_ID = UUID(int=1)
BIG = bytes(range(256)) * 8192


class Display(socketserver.BaseRequestHandler):
    """A display server: it greets, then sends back what it gets, and ends at the word `bye`."""

    def handle(self) -> None:
        self.request.sendall(b"RFB 003.008\n")
        while chunk := self.request.recv(65536):
            if chunk == b"bye":
                return
            self.request.sendall(chunk)


class Gateway:
    """The portal's end. `tokens` are what hosts showed when they dialled in."""

    def __init__(self) -> None:
        self.tokens: list[str | None] = []
        self.extensions: list[str | None] = []
        self.connected: list[ServerConnection] = []
        self.refuse = False
        self._server: Server = serve(self._take, "127.0.0.1", 0, max_size=None, close_timeout=1)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/relay"

    def only(self) -> ServerConnection:
        wait_for(lambda: self.connected)
        (connection,) = self.connected
        return connection

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def _take(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.tokens.append(connection.request.headers.get("Authorization"))
        self.extensions.append(connection.request.headers.get("Sec-WebSocket-Extensions"))
        self.connected.append(connection)
        connection.wait_closed()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


@pytest.fixture
def display() -> Iterator[Path]:
    """The path of a listening display socket."""
    with TemporaryDirectory(prefix="lh-") as folder:
        path = Path(folder) / "display"
        with socketserver.ThreadingUnixStreamServer(str(path), Display) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield path
            server.shutdown()


@pytest.fixture
def relays() -> Iterator[ConsoleRelays]:
    loop = Loop()
    loop.start()
    yield ConsoleRelays(loop)
    loop.stop(seconds=5)


def route_to(gateway: Gateway, display: Path) -> ConsoleRoute:
    return ConsoleRoute(
        session_id=uuid4(),
        lease_id=LEASE_ID,
        gateway_url=gateway.url,
        token="one-time",
        display_socket=display,
    )


def test_bytes_pass_both_ways_uncompressed_and_admitted_by_token(
    relays: ConsoleRelays, gateway: Gateway, display: Path
) -> None:
    closed: list[str] = []
    relays.open(route_to(gateway, display), on_closed=closed.append)
    connection = gateway.only()
    assert connection.recv(timeout=5) == b"RFB 003.008\n"
    threading.Thread(target=connection.send, args=(BIG[:500_000],), daemon=True).start()
    received = b""
    while len(received) < 500_000:
        received += bytes(connection.recv(timeout=5))  # type: ignore[arg-type]
    assert received == BIG[:500_000]
    assert gateway.tokens == ["Bearer one-time"]
    assert gateway.extensions == [None]
    assert closed == []
    connection.close()
    wait_for(lambda: closed)
    assert closed == ["closed by the gateway"]


def test_the_machines_end_ends_the_relay(relays: ConsoleRelays, gateway: Gateway, display: Path) -> None:
    closed: list[str] = []
    relays.open(route_to(gateway, display), on_closed=closed.append)
    gateway.only().send(b"bye")
    wait_for(lambda: closed)
    assert closed == ["closed by the machine"]


def test_closing_a_lease_closes_its_relays_before_it_returns(
    relays: ConsoleRelays, gateway: Gateway, display: Path
) -> None:
    closed: list[str] = []
    relays.open(route_to(gateway, display), on_closed=closed.append)
    gateway.only()
    relays.close_lease(UUID(int=2))
    assert closed == []
    relays.close_lease(LEASE_ID)
    assert closed == ["closed by the host"]


def test_a_gateway_that_is_not_there_ends_the_session(relays: ConsoleRelays, display: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}/relay"
    closed: list[str] = []
    route = ConsoleRoute(uuid4(), LEASE_ID, url, "one-time", display)
    relays.open(route, on_closed=closed.append)
    wait_for(lambda: closed)
    assert "one-time" not in closed[0] + repr(route)


def test_a_reader_that_does_not_read_stops_the_writer(
    relays: ConsoleRelays, gateway: Gateway, tmp_path: Path
) -> None:
    """What a machine sends is held back in its own socket, not in this program's memory."""
    with TemporaryDirectory(prefix="lh-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/display")
        listener.listen()
        relays.open(route_to(gateway, Path(folder) / "display"), on_closed=lambda reason: None)
        machine, _ = listener.accept()
        assert send_until_it_blocks(machine, at_most=64 << 20) < 32 << 20
        machine.close()


def send_until_it_blocks(machine: socket.socket, *, at_most: int) -> int:
    """How many bytes were taken until nothing was taken for a second."""
    machine.settimeout(1)
    sent = 0
    with suppress(TimeoutError):
        while sent < at_most:
            sent += machine.send(BIG)
    return sent


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        box.carry_out(box.provision(box.intake()), subject="lease:1")
        yield box


def open_console(box: Box, relays: ConsoleRelays, gateway: Gateway, *, sealed_for: PrivateKey) -> None:
    desk = ConsoleDesk(box.rig, relays, box.sealing)
    goal = OpenConsole(
        lease_id=LEASE_ID,
        session_id=uuid4(),
        gateway_url=gateway.url,
        sealed_token=seal(b"one-time", to_public_hex=public_hex(sealed_for)),
    )
    box.deliver(goal, subject="lease:1")
    desk.open(*box.consoles[-1])


def test_a_sealed_token_is_opened_by_its_host(box: Box, relays: ConsoleRelays, gateway: Gateway) -> None:
    open_console(box, relays, gateway, sealed_for=box.sealing)
    gateway.only()
    assert gateway.tokens == ["Bearer one-time"]
    wait_for(lambda: box.events(ConsoleClosed))
    assert "FileNotFoundError" in box.last(ConsoleClosed).reason


def test_a_token_sealed_for_another_host_opens_nothing(
    box: Box, relays: ConsoleRelays, gateway: Gateway
) -> None:
    open_console(box, relays, gateway, sealed_for=PrivateKey.generate())
    assert "not made for this host" in box.last(ConsoleClosed).reason
    assert gateway.connected == []
