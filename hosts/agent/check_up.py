"""`doctor` on this host: its configuration, bus and hypervisor put before the examiner."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from hosts.agent.bus import PciBus
from hosts.agent.config import Settings
from hosts.agent.doctor.examination import Surroundings, examine, fitting, in_order
from hosts.agent.doctor.facts import HypervisorFacts
from hosts.agent.drift_notes import differences_found
from hosts.agent.machines import HypervisorError, MachineHost
from hosts.agent.network.examining import examine_filter
from hosts.agent.plans import locked_cards
from hosts.agent.rig import Rig
from hosts.protocol.checkup import CheckUp


def check_up(
    settings: Settings, bus: PciBus, hypervisor: HypervisorFacts, *, without: Collection[str] = ()
) -> CheckUp:
    """Everything that can be said about the host now. BusError if the cards cannot be looked at.

    Cards `without` are not touched.
    """
    surroundings = Surroundings(
        simulated=bus.simulated,
        domain_type=settings.domain_type,
        accepted_risks=frozenset(settings.accepted_risks),
        state_directory=settings.state_directory,
        hypervisor=hypervisor,
        filter=examine_filter() if settings.network.mode == "bridge" else None,
    )
    return examine(surroundings, bus.examine(without=without))


def ask_hypervisor(uri: str, hypervisor: MachineHost) -> HypervisorFacts:
    """The versions of a hypervisor that is connected to, or why it does not tell them."""
    try:
        libvirt, qemu = hypervisor.versions()
    except HypervisorError as error:
        return HypervisorFacts(uri, error=str(error))
    return HypervisorFacts(uri, libvirt=libvirt, qemu=qemu)


def check_up_of(rig: Rig) -> CheckUp:
    """What a running worker finds, as much of it as fits into a report."""
    return fitting(whole_check_up_of(rig))


def whole_check_up_of(rig: Rig) -> CheckUp:
    """All of it, with what was not as it should be when that was last looked at.

    A card that a plan is at work on is left out: in a reset that hangs, looking at it never returns.
    """
    hypervisor = ask_hypervisor(rig.config.libvirt_uri, rig.hypervisor)
    found = check_up(rig.config, rig.bus, hypervisor, without=locked_cards(rig.plans.open()))
    return msgspec.structs.replace(found, checks=in_order((*differences_found(rig), *found.checks)))
