"""Why a card may not be leased, in words that tell an operator what to do about it."""

from __future__ import annotations

from collections.abc import Collection

from hosts.agent.doctor.card_reader import read_grounds
from hosts.agent.doctor.examination import blocking_verdicts
from hosts.agent.doctor.host_reader import read_platform
from hosts.agent.doctor.reader import Reader
from hosts.agent.pci import PciFunction, PciTree
from hosts.protocol.findings import TOPICS, put_in_words


def refusal(tree: PciTree, card: list[PciFunction], *, accepted_risks: Collection[str]) -> str:
    """All reasons against leasing the card (its functions, the display first), or an empty text.

    `accepted_risks` names the risks (pcie_acs_override, boot_vga) that an administrator takes on this host.
    """
    verdicts = blocking_verdicts(
        read_platform(Reader(tree.root)), read_grounds(tree, card), accepted_risks=accepted_risks
    )
    reasons = (put_in_words(verdict, TOPICS) for verdict in verdicts if verdict.verdict == "fail")
    return " ".join(reason.advice for reason in reasons)
