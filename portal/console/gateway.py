"""The two WebSocket endpoints: /ws/console/<session>/ for browsers, /ws/host-console/<session>/ for hosts."""

from __future__ import annotations

from uuid import UUID

from portal.console import admission
from portal.console.relay import Peer, Receive, Scope, Send, Side, attend

__all__ = ["Receive", "Scope", "Send", "serve_console"]

BROWSER_PREFIX, HOST_PREFIX = "/ws/console/", "/ws/host-console/"
SUBPROTOCOL = "binary"


async def serve_console(scope: Scope, receive: Receive, send: Send) -> None:
    """Admit a socket or refuse it with 403 before it opens, then let it attend its session."""
    await receive()
    side, session_id = _address(scope["path"])
    if session_id is None:
        await refuse(send)
    elif side == "browser":
        await _serve_browser(session_id, scope, receive, send)
    else:
        await _serve_host(session_id, scope, receive, send)


async def _serve_browser(session_id: UUID, scope: Scope, receive: Receive, send: Send) -> None:
    headers = headers_of(scope)
    offered: list[str] = list(scope["subprotocols"])
    if not admission.origin_allowed(headers) or SUBPROTOCOL not in offered:
        await refuse(send)
        return
    credential = await admission.admit_browser(session_id, headers, admission.ticket_of(offered))
    if credential is None:
        await refuse(send)
        return
    try:
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        await attend(
            session_id,
            "browser",
            Peer(receive, send),
            lambda: admission.still_admitted(session_id, credential),
        )
    finally:
        await admission.close_session(session_id)


async def _serve_host(session_id: UUID, scope: Scope, receive: Receive, send: Send) -> None:
    if not await admission.admit_host(session_id, headers_of(scope)):
        await refuse(send)
        return
    chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    await attend(session_id, "host", Peer(receive, send), _not_asked)


async def refuse(send: Send) -> None:
    """Before it is accepted, closing a socket answers 403."""
    await send({"type": "websocket.close", "code": 1008})


async def _not_asked() -> bool:
    return True


def _address(path: str) -> tuple[Side, UUID | None]:
    side: Side = "browser" if path.startswith(BROWSER_PREFIX) else "host"
    prefix = BROWSER_PREFIX if side == "browser" else HOST_PREFIX
    text = path.removeprefix(prefix).removesuffix("/")
    try:
        return side, UUID(text) if path == f"{prefix}{text}/" and len(text) == 36 else None
    except ValueError:
        return side, None


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
