"""Who does something: a person, a host, or Leasehold itself. Frozen into the audit entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hosts.models import Host
from leasing.models import Person


@dataclass(frozen=True)
class Actor:
    """`address` and `request_id` are those of the HTTP request, where there was one."""

    kind: Literal["person", "host", "system"]
    name: str
    person: Person | None = None
    address: str = ""
    request_id: str = ""

    @classmethod
    def of_person(cls, person: Person, *, address: str = "", request_id: str = "") -> Actor:
        return cls("person", person.username, person, address, request_id)

    @classmethod
    def of_host(cls, host: Host) -> Actor:
        return cls("host", host.name)


SYSTEM = Actor("system", "leasehold")
