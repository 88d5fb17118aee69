"""Turns an accepted console command into a relay, and the end of a relay into a report."""

from __future__ import annotations

from nacl.public import PrivateKey

from hosts.agent.console import ConsoleRelays, ConsoleRoute
from hosts.agent.machines import HypervisorError
from hosts.agent.rig import Rig
from hosts.agent.spool import Origin
from hosts.protocol.messages import ConsoleClosed, OpenConsole
from hosts.protocol.signing import ForgedMessage, unseal


class ConsoleDesk:
    """Opens consoles for commands that were journalled."""

    def __init__(self, rig: Rig, relays: ConsoleRelays, key: PrivateKey) -> None:
        self._rig = rig
        self._relays = relays
        self._key = key

    def open(self, goal: OpenConsole, origin: Origin) -> None:
        """Begin to relay, or report why not."""
        try:
            route = self._route(goal)
        except (ForgedMessage, HypervisorError, UnicodeDecodeError) as error:
            self._report_closed(goal, origin, str(error))
            return
        self._relays.open(route, on_closed=lambda reason: self._report_closed(goal, origin, reason))

    def _route(self, goal: OpenConsole) -> ConsoleRoute:
        facts = self._rig.find_machine(goal.lease_id)
        if facts is None:
            raise HypervisorError("The hypervisor does not know the machine.")
        return ConsoleRoute(
            session_id=goal.session_id,
            lease_id=goal.lease_id,
            gateway_url=goal.gateway_url,
            token=unseal(goal.sealed_token, key=self._key).decode(),
            display_socket=self._rig.hypervisor.console_socket(facts.name),
        )

    def _report_closed(self, goal: OpenConsole, origin: Origin, reason: str) -> None:
        with self._rig.journal.transaction():
            if self._rig.consoles.end(goal.session_id):
                self._rig.spool.add(ConsoleClosed(session_id=goal.session_id, reason=reason[:200]), origin)
