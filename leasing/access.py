"""How people reach the machine of a lease, in the words of what they type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from hosts.protocol.messages import Access
from leasing.models import Lease, SshKey
from leasing.states.lease import LeaseState

SSH, RDP, HTTP = 22, 3389, 80
# Where Sunshine asks for the number that Moonlight shows.
SUNSHINE_PAGE = 47990


@dataclass(frozen=True)
class WayIn:
    """One forwarded port. `command` is to be typed, `address` is for a program, `url` is to be opened."""

    inside: int
    address: str
    command: str = ""
    url: str = ""

    @property
    def is_remote_desktop(self) -> bool:
        return self.inside == RDP

    @property
    def sunshine_tunnel(self) -> str:
        """The command by which Sunshine's page, which answers on the workstation alone, is reached."""
        return self.command.replace("ssh ", f"ssh -L {SUNSHINE_PAGE}:localhost:{SUNSHINE_PAGE} ", 1)


@dataclass(frozen=True)
class WaysIn:
    """All of them. `fingerprint` is the SSH host key's; `lacks_key` says that nobody could sign in by SSH."""

    ways: tuple[WayIn, ...]
    fingerprint: str
    lacks_key: bool


def ways_in(lease: Lease) -> WaysIn | None:
    """None where the console is the only way: nothing runs, or its host connects no machines."""
    if lease.access is None or lease.state != LeaseState.ACTIVE or lease.machine != Lease.Machine.RUNNING:
        return None
    access = msgspec.convert(lease.access, type=Access)
    by_ssh = lease.image.cloud_init and any(each.inside == SSH for each in access.forwards)
    return WaysIn(
        ways=tuple(_ways(lease, access)),
        fingerprint=access.host_key if by_ssh else "",
        lacks_key=by_ssh and not SshKey.objects.filter(person=lease.owner_id).exists(),
    )


def _ways(lease: Lease, access: Access) -> Iterator[WayIn]:
    for each in access.forwards:
        address = f"{access.address}:{each.port}"
        if each.inside == SSH:
            user = lease.image.default_user or "USER"
            command = f"ssh -p {each.port} {user}@{access.address}"
            yield WayIn(each.inside, address, command=command)
        else:
            yield WayIn(each.inside, address, url=f"http://{address}/" if each.inside == HTTP else "")


def rdp_file(way: WayIn, *, user: str = "") -> str:
    """What Remote Desktop needs to know; of the reader's machine it shares the clipboard alone."""
    lines = [
        f"full address:s:{way.address}",
        *([f"username:s:{user}"] if user else []),
        "prompt for credentials:i:1",
        "authentication level:i:2",
        "screen mode id:i:2",
        "dynamic resolution:i:1",
        "redirectclipboard:i:1",
        "redirectprinters:i:0",
        "drivestoredirect:s:",
    ]
    return "".join(f"{line}\r\n" for line in lines)
