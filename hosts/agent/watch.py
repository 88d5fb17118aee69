"""The thread that keeps watch: it ends overdue leases, notices what is gone or not as it should be, and
reports inventory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from uuid import UUID

from hosts.agent import vigil
from hosts.agent.check_up import check_up_of
from hosts.agent.drift_notes import differences_found
from hosts.agent.inventory import take_inventory
from hosts.agent.machines import HypervisorError, HypervisorSilent, Stop, StopCause
from hosts.agent.mending import mend
from hosts.agent.plans import locked_cards
from hosts.agent.rig import Rig
from hosts.protocol.checkup import Check, CheckUp
from hosts.protocol.messages import Inventory

log = logging.getLogger(__name__)

OVERDUE_RETRY_SECONDS = 60.0
HYPERVISOR_PATIENCE_SECONDS = 30.0
CHECK_UP_RETRY_SECONDS = 60.0


class Watch:
    """Looks around every `watch_seconds`, and at once when a machine stops.

    `on_death` is called when the hypervisor stays away: its connection does not come back by itself.
    """

    def __init__(self, rig: Rig, *, on_death: Callable[[], None] = lambda: None) -> None:
        self._rig = rig
        self._on_death = on_death
        self._answered_at = time.monotonic()
        self._news = threading.Event()
        self._stopping = False
        self._stopped_by_guest: set[str] = set()
        self._stop_again_at: dict[UUID, float] = {}
        self._reported: tuple[int, Inventory] | None = None
        self._report_at = 0.0
        self._report = 0
        self._check_up_at = 0.0
        self._mend_at = time.monotonic() + rig.config.reconcile_seconds
        self._told: tuple[tuple[Check, ...], tuple[str, ...]] = (), ()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._rig.hypervisor.on_stopped(self._on_stopped)
        self._thread.start()

    def stop(self, *, seconds: float) -> None:
        self._stopping = True
        self._news.set()
        self._thread.join(seconds)

    def _on_stopped(self, stop: Stop) -> None:
        """Called by the hypervisor, which must not be asked anything meanwhile."""
        if stop.cause is StopCause.GUEST:
            self._stopped_by_guest.add(stop.name)
        self._news.set()

    def _run(self) -> None:
        while not self._stopping:
            self._news.clear()
            self._try_to_look()
            self._news.wait(self._rig.config.watch_seconds)

    def _try_to_look(self) -> None:
        """Nothing that happens in one round may keep the next from ending a lease."""
        try:
            self.look()
        except HypervisorSilent as error:
            log.warning("Could not look around: %s", error)
            self._answered_at = time.monotonic()  # the patience is with the next connection
        except HypervisorError as error:
            log.warning("Could not look around: %s", error)
            if time.monotonic() - self._answered_at > HYPERVISOR_PATIENCE_SECONDS:
                log.critical("The hypervisor stays away")
                self._on_death()
        except Exception:
            log.exception("Could not look around")
        else:
            self._answered_at = time.monotonic()

    def look(self) -> None:
        """One round."""
        self._stop_overdue()
        seen = frozenset(self._stopped_by_guest)
        vigil.note_stops(self._rig, stopped_by_guest=seen)
        self._stopped_by_guest -= seen
        vigil.report_lost_gpus(self._rig)
        self._mend()
        self._report_inventory()
        self._report_check_up()

    def _stop_overdue(self) -> None:
        now = time.monotonic()
        for machine in vigil.overdue_machines(self._rig):
            if self._stop_again_at.get(machine.lease_id, now) <= now:
                self._stop_again_at[machine.lease_id] = now + OVERDUE_RETRY_SECONDS
                vigil.stop_overdue(self._rig, machine)

    def _mend(self) -> None:
        """Every so often; at the start it was done before anything else began."""
        if time.monotonic() >= self._mend_at:
            self._mend_at = time.monotonic() + self._rig.config.reconcile_seconds
            mend(self._rig)

    def _report_inventory(self) -> None:
        """When something has changed, when the portal is found to understand more, and every so often, unless
        the last one is still unreceived."""
        inventory = take_inventory(self._rig)
        news = (self._rig.spool.spoken, inventory)
        due = time.monotonic() >= self._report_at and not self._rig.spool.holds(self._report)
        if news != self._reported or due:
            self._report = self._rig.spool.add(inventory, self._rig.spool.host_origin)
            self._reported = news
            self._report_at = time.monotonic() + self._rig.config.inventory_seconds

    def _report_check_up(self) -> None:
        """At the start, which shows the portal what is spoken here; every so often if it understands; at once
        when other things are found not to be as they should be, or libvirt has left a call unanswered; soon
        when a card had to be left out."""
        found = differences_found(self._rig), self._rig.hypervisor.unanswered()
        if time.monotonic() < self._check_up_at and found == self._told:
            return
        self._told = found
        if not self._check_up_at or self._rig.spool.spoken >= CheckUp.SINCE:
            self._rig.spool.add(check_up_of(self._rig), self._rig.spool.host_origin)
        left_out = bool(locked_cards(self._rig.plans.open()))
        pause = CHECK_UP_RETRY_SECONDS if left_out else self._rig.config.check_up_seconds
        self._check_up_at = time.monotonic() + pause
