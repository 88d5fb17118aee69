"""Turns an accepted command to read a home volume into a reading, and the end of a reading into a report."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

import msgspec
from nacl.public import PrivateKey
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, WebSocketException
from websockets.sync.client import ClientConnection, connect

from hosts.agent.disks import DiskError
from hosts.agent.home_steps import open_pool, opened_key
from hosts.agent.images import ImageError, open_kernel_image
from hosts.agent.machines import HypervisorError
from hosts.agent.reading_machine import (
    CHANNEL,
    Answer,
    ReadingFailed,
    ReadingRoom,
    Volume,
    asked,
    listing_of,
    machine_name,
    remove_reading_machines,
)
from hosts.agent.rig import Rig
from hosts.agent.small_machine import remove_small_machine
from hosts.agent.spool import Origin
from hosts.protocol.homes import HomeRead, ReadHome
from hosts.protocol.signing import ForgedMessage, unseal

log = logging.getLogger(__name__)

DIAL_SECONDS = 10.0
CLOSE_SECONDS = 2.0
AGAIN_SECONDS = 5.0
AT_ONCE = 4
END = "end"
# What may go wrong while something is read, in words for whoever wanted it.
_ON_THE_HOST = (DiskError, HypervisorError, ImageError, ReadingFailed)
_ON_THE_WAY = (ForgedMessage, OSError, WebSocketException)


class ReadingDesk:
    """Carries out readings, a few at a time, each in a thread of its own."""

    def __init__(self, rig: Rig, key: PrivateKey) -> None:
        self._rig = rig
        self._key = key
        self._free = threading.BoundedSemaphore(AT_ONCE)

    def open(self, goal: ReadHome, origin: Origin) -> None:
        """Begin to read and return at once; the report says how it ended."""
        if not self._free.acquire(blocking=False):
            self._end(goal, origin, "The host is reading for others. Try again in a minute.")
            return
        self._rig.readings.add(goal.reading_id)
        name = machine_name(goal.reading_id)
        threading.Thread(target=self._run, args=(goal, origin), name=name, daemon=True).start()

    def _run(self, goal: ReadHome, origin: Origin) -> None:
        reason = "The host's worker could not read it."
        try:
            self._read(goal)
            reason = ""
        except ConnectionClosed:
            reason = "Nobody waits for it any more."
        except (*_ON_THE_HOST, *_ON_THE_WAY) as error:
            reason = str(error)
        finally:
            while not self._is_let_go(goal):
                time.sleep(AGAIN_SECONDS)
            self._rig.readings.discard(goal.reading_id)
            self._free.release()
            self._end(goal, origin, reason)

    def _read(self, goal: ReadHome) -> None:
        """The gateway first: where nobody waits any more, nothing is started."""
        token = unseal(goal.sealed_token, key=self._key).decode()
        room = _room(self._rig)
        with connect(
            goal.gateway_url,
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            open_timeout=DIAL_SECONDS,
            close_timeout=CLOSE_SECONDS,
            proxy=None,
        ) as gateway:
            path = open_pool(self._rig.config, goal.pool).open_to_read(goal.volume_id, goal.reading_id)
            volume = Volume(goal.reading_id, path, opened_key(self._rig, goal.sealed_key))
            with asked(room, volume, goal.wanted, goal.path) as answer:
                _pass_on(goal, answer, gateway)

    def _is_let_go(self, goal: ReadHome) -> bool:
        """Nobody else may have the volume while its machine may still run."""
        try:
            remove_small_machine(self._rig.hypervisor, machine_name(goal.reading_id))
            pool = open_pool(self._rig.config, goal.pool)
            pool.check()
            pool.detach(goal.reading_id)
        except (DiskError, HypervisorError, OSError) as error:
            log.warning("Reading %s keeps its volume for now: %s", goal.reading_id, error)
            return False
        return True

    def _end(self, goal: ReadHome, origin: Origin, reason: str) -> None:
        log.info("Reading %s ended: %s", goal.reading_id, reason or "all of it")
        self._rig.spool.add(HomeRead(reading_id=goal.reading_id, reason=reason[:2000]), origin)


def end_left_readings(rig: Rig) -> None:
    """No reading outlives the program: what an earlier one has left is removed, and reported as over.

    DiskError or HypervisorError if that cannot be done now.
    """
    for name in remove_reading_machines(rig.hypervisor, but=rig.readings):
        log.warning("Removed %s, which an earlier worker had started", name)
    if rig.config.home_pool is None:
        return
    pool = open_pool(rig.config, rig.config.home_pool.name)
    for reading_id in pool.holders("reading") - rig.readings:
        pool.detach(reading_id)
        over = HomeRead(reading_id=reading_id, reason="The host's worker was restarted.")
        with rig.journal.transaction():
            rig.spool.add(over, rig.spool.host_origin)


def _room(rig: Rig) -> ReadingRoom:
    if rig.config.reader is None:
        raise ReadingFailed("This host has no system to read home volumes with.")
    return ReadingRoom(
        hypervisor=rig.hypervisor,
        domain_type=rig.config.domain_type,
        folder=rig.config.machines_directory,
        system=open_kernel_image(
            rig.config.reader.directory, rig.config.reader.sha256, cmdline=f"leasehold.channel={CHANNEL}"
        ),
    )


def _pass_on(goal: ReadHome, answer: Answer, gateway: ClientConnection) -> None:
    """What is known of it, as text; then all of it, and a last word. It is over when it was taken there."""
    gateway.send(msgspec.json.encode({"size": answer.size, "clean": answer.clean}).decode())
    if goal.wanted == "list":
        gateway.send(msgspec.json.encode(listing_of(answer)))
    else:
        for chunk in answer.chunks():
            gateway.send(chunk)
    gateway.send(END)
    with suppress(ConnectionClosedOK):
        gateway.recv()
