"""`doctor` on this host: its configuration, bus and hypervisor put before the examiner."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from hosts.agent.bus import PciBus
from hosts.agent.config import Settings
from hosts.agent.doctor.card_checks import untouched
from hosts.agent.doctor.examination import Surroundings, examine, fitting, in_order
from hosts.agent.doctor.facts import HypervisorFacts
from hosts.agent.drift_notes import differences_found, hang_of
from hosts.agent.held_cards import cards_in_use
from hosts.agent.machines import HypervisorError, MachineHost
from hosts.agent.network.examining import examine_filter
from hosts.agent.rig import Rig
from hosts.protocol.checkup import Check, CheckUp

OPEN_FILES = "/proc/*/fd"
JOURNAL = "the journal and libvirt"


def check_up(
    settings: Settings,
    bus: PciBus,
    hypervisor: HypervisorFacts,
    *,
    without: Collection[str],
    unseen: Mapping[str, tuple[Check, ...]],
) -> CheckUp:
    """Everything that can be said about the host now. BusError if the cards cannot be looked at.

    Cards `without` are not touched; of the `unseen` among them is said what is known.
    """
    pool = settings.home_pool
    surroundings = Surroundings(
        simulated=bus.simulated,
        domain_type=settings.domain_type,
        accepted_risks=frozenset(settings.accepted_risks),
        state_directory=settings.state_directory,
        images_directory=settings.images_directory,
        hypervisor=hypervisor,
        filter=examine_filter() if settings.network.mode == "bridge" else None,
        home_pool=(pool.name, pool.directory) if pool else None,
    )
    cards = bus.examine(without=without)
    found_hanging = {address: (hang_of(address),) for address in bus.hanging() - set(without)}
    return examine(surroundings, cards, unseen={**found_hanging, **unseen})


def check_up_alone(settings: Settings, bus: PciBus, hypervisor: HypervisorFacts) -> CheckUp:
    """As `check_up`, where no worker knows which cards are in use."""
    held = bus.held()
    unseen = {address: (untouched(address, OPEN_FILES),) for address in held}
    known_to_hang = {address: (hang_of(address),) for address in bus.hanging()}
    return check_up(settings, bus, hypervisor, without=held, unseen={**unseen, **known_to_hang})


def ask_hypervisor(uri: str, hypervisor: MachineHost) -> HypervisorFacts:
    """The versions of a hypervisor that is connected to, or why it does not tell them."""
    try:
        libvirt, qemu = hypervisor.versions()
    except HypervisorError as error:
        return HypervisorFacts(uri, error=str(error))
    return HypervisorFacts(uri, libvirt=libvirt, qemu=qemu, unanswered=hypervisor.unanswered())


def check_up_of(rig: Rig) -> CheckUp:
    """What a running worker finds, as much of it as fits into a report."""
    return fitting(whole_check_up_of(rig))


def whole_check_up_of(rig: Rig) -> CheckUp:
    """All of it, with what was not as it should be when that was last looked at.

    A card in use is not touched: what was found when nobody used it stands.
    """
    used = cards_in_use(rig)
    kept = {address: checks for address in used if (checks := _recall(rig, address))}
    new = used.intersection(gpu.address for gpu in rig.gpus.all()) - kept.keys()
    unseen = {**kept, **{address: (untouched(address, JOURNAL),) for address in new}}
    hypervisor = ask_hypervisor(rig.config.libvirt_uri, rig.hypervisor)
    found = check_up(rig.config, rig.bus, hypervisor, without=used, unseen=unseen)
    _remember(rig, found.checks, without=used | cards_in_use(rig))
    checks = (*differences_found(rig), *found.checks)
    return msgspec.structs.replace(found, checks=in_order(checks))


def _recall(rig: Rig, address: str) -> tuple[Check, ...]:
    with rig.journal.transaction():
        text = rig.journal.recall(f"checks:{address}")
    return () if text is None else msgspec.json.decode(text, type=tuple[Check, ...])


def _remember(rig: Rig, checks: Collection[Check], *, without: Collection[str]) -> None:
    """What was found about each card, unless somebody has taken it into use meanwhile."""
    for address in {check.subject for check in checks} - {"", *without}:
        about = tuple(check for check in checks if check.subject == address)
        if about != _recall(rig, address):
            with rig.journal.transaction():
                rig.journal.remember(f"checks:{address}", msgspec.json.encode(about).decode())
