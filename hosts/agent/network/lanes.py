"""Lanes: the small subnet and the forwarded ports that a lease has on its host, as the journal keeps them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from uuid import UUID

from hosts.agent.journal import Journal
from hosts.agent.network.settings import PORTS_EACH, SUBNET_BITS, NetworkSettings

BRIDGE_PREFIX = "lh-"
_LAST = "last_lane"


class NoLane(Exception):
    """Every subnet or every port of this host is taken; the text says so."""


@dataclass(frozen=True)
class Lane:
    """What belongs to one lease. `forwards` are (port of the host, port of the machine).

    Only what `is_open` is let through.
    """

    lease_id: UUID
    number: int
    subnet: IPv4Network
    forwards: tuple[tuple[int, int], ...] = ()
    is_open: bool = True

    @property
    def gateway(self) -> IPv4Address:
        return self.subnet[1]

    @property
    def address(self) -> IPv4Address:
        """The machine's."""
        return self.subnet[2]

    @property
    def bridge(self) -> str:
        """An interface's name has at most 15 characters; no two lanes have one number."""
        return f"{BRIDGE_PREFIX}{self.number}"

    @property
    def mac(self) -> str:
        """QEMU's prefix, then three bytes that follow from the lease."""
        digest = hashlib.sha256(self.lease_id.bytes).digest()
        return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def make_lane(
    settings: NetworkSettings, lease_id: UUID, number: int, ports: Collection[int], *, is_open: bool = True
) -> Lane:
    """The lane of that number."""
    size = 1 << (32 - SUBNET_BITS)
    first = settings.ports[0] + number * PORTS_EACH
    return Lane(
        lease_id=lease_id,
        number=number,
        subnet=IPv4Network((settings.range[number * size], SUBNET_BITS)),
        forwards=tuple((first + index, port) for index, port in enumerate(sorted(ports)[:PORTS_EACH])),
        is_open=is_open,
    )


class Lanes:
    """The table of lanes."""

    def __init__(self, journal: Journal, settings: NetworkSettings) -> None:
        self._journal = journal
        self._settings = settings

    def all(self) -> list[Lane]:
        with self._journal.transaction():
            return [self._lane(row) for row in self._journal.execute("SELECT * FROM lane ORDER BY number")]

    def get(self, lease_id: UUID) -> Lane | None:
        return next((lane for lane in self.all() if lane.lease_id == lease_id), None)

    def take(
        self,
        lease_id: UUID,
        ports: Collection[int],
        *,
        present: dict[UUID, int],
        is_usable: Callable[[Lane], bool] = lambda _: True,
    ) -> Lane:
        """The lease's lane, open; a new one if it has none. NoLane if there is none left.

        The numbers go round, so that what was just given back rests longest. `present` are the networks that
        exist: a lease keeps the one it has, and nobody gets another's.
        """
        with self._journal.transaction():
            kept = self.get(lease_id)
            number = kept.number if kept else present.get(lease_id)
            if number is None:
                number = self._free(lease_id, ports, present, is_usable)
            self._journal.execute(
                "INSERT INTO lane (lease_id, number, ports, is_open) VALUES (?, ?, ?, 1)"
                " ON CONFLICT (lease_id) DO UPDATE SET ports = excluded.ports, is_open = 1",
                str(lease_id),
                number,
                json.dumps(sorted(ports)),
            )
            self._journal.remember(_LAST, str(number))
            return make_lane(self._settings, lease_id, number, ports)

    def _free(
        self,
        lease_id: UUID,
        ports: Collection[int],
        present: dict[UUID, int],
        is_usable: Callable[[Lane], bool],
    ) -> int:
        taken = {lane.number for lane in self.all()} | {*present.values()}
        begin = int(self._journal.recall(_LAST) or -1) + 1
        for step in range(self._settings.lanes):
            number = (begin + step) % self._settings.lanes
            if number not in taken and is_usable(make_lane(self._settings, lease_id, number, ports)):
                return number
        raise NoLane(
            f"All {self._settings.lanes} subnets or ports that this host has for machines are taken."
        )

    def close(self, lease_id: UUID) -> None:
        """From now on nothing is let through, whatever becomes of the machine."""
        with self._journal.transaction():
            self._journal.execute("UPDATE lane SET is_open = 0 WHERE lease_id = ?", str(lease_id))

    def drop(self, lease_id: UUID) -> None:
        """Its network is gone: another lease may have the number."""
        with self._journal.transaction():
            self._journal.execute("DELETE FROM lane WHERE lease_id = ?", str(lease_id))

    def _lane(self, row: sqlite3.Row) -> Lane:
        return make_lane(
            self._settings,
            UUID(row["lease_id"]),
            row["number"],
            json.loads(row["ports"]),
            is_open=bool(row["is_open"]),
        )
