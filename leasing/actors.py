"""Who does something: a person, a host, Leasehold itself, or nobody it knows. Frozen into the audit entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hosts.models import Host
from leasing.models import Person


@dataclass(frozen=True)
class Actor:
    """`address` and `request_id` are those of the HTTP request; a host has its report's `journal:sequence`.

    `token` is the public part of the API token with which a program acts as the person.
    """

    kind: Literal["person", "host", "system", "nobody"]
    name: str
    person: Person | None = None
    address: str = ""
    request_id: str = ""
    token: str = ""

    @classmethod
    def of_person(cls, person: Person, *, address: str = "", request_id: str = "", token: str = "") -> Actor:
        return cls("person", person.username, person, address, request_id, token)

    @classmethod
    def of_host(cls, host: Host) -> Actor:
        """A host acts by the report that is being applied, which is the next one of its journal."""
        report = f"{host.journal_id}:{host.applied_sequence + 1}" if host.journal_id else ""
        return cls("host", host.name, request_id=report)

    @classmethod
    def of_nobody(cls, *, address: str = "", request_id: str = "") -> Actor:
        """Somebody who has not shown who they are."""
        return cls("nobody", "nobody", address=address, request_id=request_id)


SYSTEM = Actor("system", "leasehold")
