"""ASGI entry point: pages, API, live updates, and the consoles' WebSockets.

uvicorn portal.asgi:application --ws websockets-sansio --ws-per-message-deflate false --no-proxy-headers
"""

from __future__ import annotations

import logging
import os
from functools import partial

from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

pages = get_asgi_application()

from leasing.checks import require_guards  # noqa: E402 - needs the settings
from portal.admission import in_turn  # noqa: E402 - needs the settings
from portal.bodies import bounded  # noqa: E402 - needs the settings
from portal.console.gateway import Receive, Scope, Send, serve_console  # noqa: E402 - needs the settings
from portal.logs import WithoutFeedSecrets  # noqa: E402 - needs the settings
from portal.reading.gateway import HOST_PREFIX, is_download, serve_download, serve_host  # noqa: E402
from portal.settling import settle  # noqa: E402 - needs the settings
from portal.threads import in_database_thread  # noqa: E402 - needs the settings

# uvicorn writes its access log by itself, and not through Django's handlers.
logging.getLogger("uvicorn.access").addFilter(WithoutFeedSecrets())
settle()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    match scope["type"]:
        case "http" if is_download(scope["path"]):
            await serve_download(scope, receive, send)
        case "http":
            await in_turn(partial(bounded, pages), scope, receive, send)
        case "websocket" if scope["path"].startswith(HOST_PREFIX):
            await serve_host(scope, receive, send)
        case "websocket":
            await serve_console(scope, receive, send)
        case "lifespan":
            await _live(receive, send)


async def _live(receive: Receive, send: Send) -> None:
    """Serve nothing on a database that lacks a guard."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await in_database_thread(require_guards)()
            except ImproperlyConfigured as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
