"""One POST to an address that a person has given: to public addresses only, and never for long.

The name is resolved once and every address it has must be allowed; the connection goes to one of these, so
that no second answer of the resolver counts. Redirects are not followed: they are an answer like others.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import IPPROTO_TCP, SHUT_RDWR, create_connection, getaddrinfo, socket
from time import monotonic
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

SECONDS = 5.0
LONGEST_URL = 500
_Address = IPv4Address | IPv6Address
_NAT64 = ip_network("64:ff9b::/96")


class HookRefused(Exception):
    """The address may not be asked, or nobody answered there. The words are for its owner."""

    def __init__(self, cause: str, **facts: object) -> None:
        super().__init__(cause)
        self.cause, self.facts = cause, facts


@dataclass(frozen=True)
class HookAnswer:
    """What came back: a status of HTTP, and after how many seconds."""

    status: int
    seconds: float

    @property
    def is_taken(self) -> bool:
        return 200 <= self.status < 300


def check_url(url: str) -> SplitResult:
    """Its parts. Raises HookRefused unless it is https, with a name, and no more than an address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise HookRefused("not-an-address") from None
    plain = url.isascii() and url.isprintable() and " " not in url and len(url) <= LONGEST_URL
    if not plain or not parts.hostname or port == 0:
        raise HookRefused("not-an-address")
    if parts.scheme != "https":
        raise HookRefused("not-https")
    if "@" in parts.netloc or parts.fragment:
        raise HookRefused("more-than-an-address")
    return parts


def post(url: str, body: bytes, headers: Mapping[str, str]) -> HookAnswer:
    """Send it. Raises HookRefused; takes SECONDS at most, once the name is resolved."""
    parts, began = check_url(url), monotonic()
    address = resolve(parts.hostname or "", parts.port or 443)
    connection = _Connection(parts, address)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    alarm = threading.Timer(SECONDS, connection.cut)
    alarm.daemon = True
    alarm.start()
    try:
        connection.request("POST", target, body, dict(headers))
        status = connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        raise HookRefused("certificate", why=error.verify_message) from error
    except (OSError, HTTPException, ValueError) as error:
        raise HookRefused("too-late" if connection.is_cut else "no-answer") from error
    finally:
        alarm.cancel()
        connection.close()
    return HookAnswer(status, monotonic() - began)


def resolve(host: str, port: int) -> str:
    """An address of the host. Raises HookRefused if it has none, or one that may not be asked."""
    try:
        found = getaddrinfo(host, port, proto=IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise HookRefused("no-such-name") from error
    addresses = [str(each[4][0]).partition("%")[0] for each in found]
    if not addresses:
        raise HookRefused("no-such-name")
    for address in addresses:
        if not may_reach(ip_address(address)):
            raise HookRefused("private", address=address)
    return addresses[0]


def may_reach(address: _Address) -> bool:
    """Whether it is public, or the site's operators have allowed its network."""
    inside = _inside(address)
    if any(inside in network for network in settings.WEBHOOK_NETWORKS):
        return True
    hidden = isinstance(inside, IPv6Address) and (inside.sixtofour or inside.teredo or inside.is_site_local)
    return inside.is_global and not (inside.is_multicast or inside.is_reserved or hidden)


def _inside(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address only wraps."""
    if not isinstance(address, IPv6Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address


class _Connection(HTTPSConnection):
    """To this address, whatever the name says now; the certificate has to be the name's."""

    def __init__(self, parts: SplitResult, address: str) -> None:
        context = ssl.create_default_context(cafile=settings.WEBHOOK_CA_FILE or None)
        super().__init__(parts.hostname or "", parts.port or 443, timeout=SECONDS, context=context)
        self._address, self._raw, self._context = address, None, context
        self.is_cut = False

    _raw: socket | None

    def connect(self) -> None:
        raw = create_connection((self._address, self.port), SECONDS)
        # Wrapping takes the descriptor over: only then the handshake, so that it can be cut off.
        self.sock = self._context.wrap_socket(raw, server_hostname=self.host, do_handshake_on_connect=False)
        self._raw = self.sock
        if self.is_cut:
            raise TimeoutError
        self.sock.do_handshake()

    def cut(self) -> None:
        """End it from outside, however slowly it goes on."""
        self.is_cut = True
        if self._raw is not None:
            with suppress(OSError):
                self._raw.shutdown(SHUT_RDWR)
